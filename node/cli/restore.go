package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"gw/rpc/gwv1"
)

// Restore is "gw restore".
type Restore struct {
	File  string `arg:"" help:"The backup."`
	Adopt bool   `env:"-" help:"Take the backup of another cluster, and its identity with it."`
	Yes   bool   `short:"y" env:"-" help:"Don't ask."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Restore) Examples() string {
	return `
gw restore gw-backup-9f86d081-20260102T030405Z.gwb
gw restore gw.gwb --yes -o json
gw restore other.gwb --adopt`
}

// restoreChunk is how much of a file goes into a message, in bytes; a hub takes at most 1 MiB.
const restoreChunk = 256 << 10

// Run checks the file, says what restoring means, asks, and restores.
func (r *Restore) Run(ctx context.Context, c *Context) error {
	f, err := os.Open(r.File)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return fmt.Errorf("restore: %w", err)
	} else if !info.Mode().IsRegular() {
		return usageError("%s is not a file; it is read twice, so it has to be one", r.File)
	}
	_, info, err := c.readBackup(r.File, f)
	if err != nil {
		return err
	}
	h, err := r.open(c)
	if err != nil {
		return err
	}
	status, err := h.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
	if err != nil {
		return err
	}
	if info.ClusterID != status.GetClusterId() && !r.Adopt {
		return fmt.Errorf("%s is of cluster %s, and this is %s; nothing was changed\nIf this cluster shall become that one, repeat with --adopt", r.File, info.ClusterID, status.GetClusterId())
	}
	c.say("%s", restoreMeans(info, status))
	if !r.Yes {
		if err := c.confirm(ctx, "Replace the state of cluster "+status.GetClusterId(), "--yes"); err != nil {
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	res, err := r.send(ctx, c, h, f)
	if err != nil {
		return err
	}
	if !r.forPeople() {
		return r.one(c, res)
	}
	fmt.Fprintf(c.Stdout, "Restored at index %d. The cluster's epoch is %d now.\n", res.GetIndex(), res.GetEpoch())
	c.say("What next:\n  gw tokens list   revoke again what was revoked since the backup\n  gw diff          edges run what they have until you push: gw push\n  gw edges         they show as ahead until then")
	return nil
}

// restoreMeans says what restoring a backup does.
func restoreMeans(info BackupInfo, status *gwv1.GetClusterStatusResponse) string {
	text := fmt.Sprintf("The backup has %s, %s, %s, %s, %s, %s and %s as of index %d in epoch %d. It replaces all there is in cluster %s (index %d, epoch %d):",
		counted(info.Resources, "resource"), counted(info.Releases, "release"), counted(info.Apps, "app"), counted(info.Tokens, "token"),
		counted(info.Secrets, "secret"), counted(info.Edges, "edge"), counted(info.Users, "user"),
		info.Index, info.Epoch, status.GetClusterId(), status.GetCommitIndex(), status.GetEpoch())
	text += "\n  - What was changed since the backup is gone." +
		"\n  - Tokens, logins and users revoked since the backup are valid again." +
		"\n  - The epoch rises. Edges go on with what they run, and show as ahead until the next push."
	if info.ClusterID != status.GetClusterId() {
		text += fmt.Sprintf("\n  - The cluster becomes %s: edges and hubs of %s have to enrol anew, and secrets can be read only with the key of the other.", info.ClusterID, status.GetClusterId())
	}
	return text
}

// send streams a backup to the hub.
func (r *Restore) send(ctx context.Context, c *Context, h *hub, f io.Reader) (*gwv1.RestoreResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that ends early must not look like a whole one
	stream, err := h.upload.Restore(ctx)
	if err != nil {
		return nil, &hubError{h.url.String(), err}
	}
	show, sent := newProgress(c, "sent"), uint64(0)
	defer show.end()
	chunk := make([]byte, restoreChunk)
	for first := true; ; first = false {
		n, err := io.ReadFull(f, chunk)
		if n > 0 {
			req := &gwv1.RestoreRequest{Chunk: chunk[:n], Adopt: first && r.Adopt}
			if err := stream.Send(req); errors.Is(err, io.EOF) {
				break // the hub has refused it; the answer says why
			} else if err != nil {
				return nil, &hubError{h.url.String(), err}
			}
			sent += uint64(n)
			show.step(sent)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("restore: %w; nothing was changed", err)
		}
	}
	res, err := stream.CloseAndReceive()
	if err != nil {
		return nil, &hubError{h.url.String(), err}
	}
	return res, nil
}
