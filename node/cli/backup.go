package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gw/rpc/gwv1"
)

// BackupInfo is what is in a backup.
type BackupInfo struct {
	// ClusterID is the cluster it was made of.
	ClusterID string
	// Epoch is the cluster's epoch, and Index the log's index, as of which it is.
	Epoch, Index uint64
	// How many of each there are.
	Resources, Releases, Apps, Tokens, Secrets, Edges, Users int
}

// errNoBackups is what commands about backups fail with in a process that can't read them.
var errNoBackups = errors.New("this binary can't read backups")

// Backup is "gw backup".
type Backup struct {
	Save   BackupSave   `cmd:"" default:"withargs" help:"Save the whole state to a file."`
	Verify BackupVerify `cmd:"" help:"Check a backup, without a hub."`
}

// Examples returns the examples of the command's help.
func (*Backup) Examples() string {
	return `
gw backup
gw backup -f gw.gwb
gw backup verify gw.gwb`
}

// BackupSave is "gw backup".
type BackupSave struct {
	File  string `short:"f" placeholder:"FILE|DIR|-" help:"File to write, whole or not at all; a directory for a file in it; - for standard output, which is not checked. Default: gw-backup-CLUSTER-TIME.gwb here."`
	Stale bool   `help:"Take what the answering hub has, also without a leader."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*BackupSave) Examples() string {
	return `
gw backup
gw backup -f /var/backups
gw backup -f - | age -r age1… > gw.gwb.age
gw backup --stale -f last-hub.gwb`
}

// Run saves a backup. The file is checked before it gets its name.
func (b *BackupSave) Run(ctx context.Context, c *Context) error {
	if b.File != "-" && c.VerifyBackup == nil {
		return errNoBackups
	}
	dir, path, err := b.place()
	if err != nil {
		return err
	}
	h, err := b.open(c)
	if err != nil {
		return err
	}
	if b.File == "-" {
		saved, err := b.receive(ctx, c, h, c.Stdout)
		if err == nil {
			c.say("Wrote %s, SHA-256 %s.", byteSize(saved.size), saved.hex())
		}
		return err
	}
	f, err := newWholeFile(dir, "gw-backup")
	if err != nil {
		return fmt.Errorf("save the backup: %w", err)
	}
	defer f.discard()
	saved, err := b.receive(ctx, c, h, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("save the backup: %w", err)
	}
	info, err := c.VerifyBackup(f)
	if err != nil {
		return fmt.Errorf("what the hub sent is not a backup this binary can restore, so it was not kept: %w\nKeep it nevertheless with: gw backup -f - > FILE", err)
	}
	path = cmp.Or(path, filepath.Join(dir, defaultBackupName(c, info)))
	if err := f.keep(path); err != nil {
		return fmt.Errorf("save the backup: %w", err)
	}
	return showBackup(c, &b.Output, path, saved, info)
}

// place returns the directory the file will be in, and its path unless that is up to its content.
func (b *BackupSave) place() (dir, path string, err error) {
	if b.File == "" || b.File == "-" {
		return ".", "", nil
	}
	info, err := os.Stat(b.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return filepath.Dir(b.File), b.File, nil
	case err != nil:
		return "", "", fmt.Errorf("save the backup: %w", err)
	case info.IsDir():
		return b.File, "", nil
	case !info.Mode().IsRegular():
		return "", "", usageError("%s is neither a file nor a directory; for a pipe or a device use -f - > %s", b.File, b.File)
	}
	return filepath.Dir(b.File), b.File, nil
}

// defaultBackupName is unique per second and safe whatever the hub calls its cluster.
func defaultBackupName(c *Context, info BackupInfo) string {
	cluster := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, info.ClusterID)
	return fmt.Sprintf("gw-backup-%s-%s.gwb", short(cluster), c.now().UTC().Format("20060102T150405Z"))
}

// digested is the size and the SHA-256 of a file.
type digested struct {
	size uint64
	hash hash.Hash
}

func newDigested() *digested { return &digested{hash: sha256.New()} }

// Write implements io.Writer.
func (d *digested) Write(p []byte) (int, error) {
	d.size += uint64(len(p))
	return d.hash.Write(p)
}

func (d *digested) hex() string { return fmt.Sprintf("%x", d.hash.Sum(nil)) }

// receive writes what the hub sends, up to the stream's end: one that breaks off is an error.
func (b *BackupSave) receive(ctx context.Context, c *Context, h *hub, w io.Writer) (*digested, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when writing fails
	stream, err := h.cluster.Backup(ctx, &gwv1.BackupRequest{Stale: b.Stale})
	if err != nil {
		return nil, &hubError{h.url.String(), err}
	}
	defer stream.Close()
	got, show := newDigested(), newProgress(c, "received")
	defer show.end()
	for stream.Receive() {
		chunk := stream.Msg().GetChunk()
		got.Write(chunk)
		if _, err := w.Write(chunk); err != nil {
			return nil, fmt.Errorf("save the backup: %w", err)
		}
		show.step(got.size)
		if ctx.Err() != nil { // what is on its way already must not make it whole
			return nil, context.Cause(ctx)
		}
	}
	if err := stream.Err(); err != nil {
		if got.size > 0 && detailOf(err) == nil && ctx.Err() == nil {
			return nil, fmt.Errorf("the backup broke off after %s: %w; what came is not whole", byteSize(got.size), err)
		}
		return nil, &hubError{h.url.String(), err}
	}
	if got.size == 0 {
		return nil, fmt.Errorf("the hub %s sent an empty backup", h.url)
	}
	return got, nil
}

// progress shows on a terminal how far a transfer is.
type progress struct {
	c     *Context
	done  string
	shown uint64 // in MiB
	any   bool
}

func newProgress(c *Context, done string) *progress { return &progress{c: c, done: done} }

// step shows the size reached, once per MiB.
func (p *progress) step(size uint64) {
	if !p.c.isTerminal(p.c.Stderr) || p.any && size>>20 == p.shown {
		return
	}
	p.any, p.shown = true, size>>20
	fmt.Fprintf(p.c.Stderr, "\r\x1b[K%s %s", byteSize(size), p.done)
}

// end clears the line for what is said next.
func (p *progress) end() {
	if p.any {
		fmt.Fprint(p.c.Stderr, "\r\x1b[K")
	}
	p.any = false
}

// showBackup tells what a file has.
func showBackup(c *Context, out *Output, path string, file *digested, info BackupInfo) error {
	counts := []struct {
		name string
		n    int
	}{
		{"resources", info.Resources}, {"releases", info.Releases}, {"apps", info.Apps}, {"tokens", info.Tokens},
		{"secrets", info.Secrets}, {"edges", info.Edges}, {"users", info.Users},
	}
	if !out.forPeople() {
		o := object{{"file", path}, {"size", json.Number(itoa(file.size))}, {"sha256", file.hex()},
			{"clusterId", info.ClusterID}, {"epoch", json.Number(itoa(info.Epoch))}, {"index", json.Number(itoa(info.Index))}}
		for _, count := range counts {
			o = append(o, member{count.name, json.Number(itoa(count.n))})
		}
		return out.value(c, o)
	}
	t := &table{headings: []string{"BACKUP", printable(path)}}
	t.add("size", byteSize(file.size))
	t.add("SHA-256", file.hex())
	t.add("cluster", info.ClusterID)
	t.add("epoch", itoa(info.Epoch))
	t.add("index", itoa(info.Index))
	for _, count := range counts {
		t.add(count.name, itoa(count.n))
	}
	return t.write(c.Stdout, c.colors(c.Stdout))
}

// BackupVerify is "gw backup verify".
type BackupVerify struct {
	File string `arg:"" help:"The backup, - for standard input."`
	Output
}

// Examples returns the examples of the command's help.
func (*BackupVerify) Examples() string {
	return "gw backup verify gw.gwb\ngw backup verify gw.gwb -o json"
}

// Run checks a backup.
func (v *BackupVerify) Run(_ context.Context, c *Context) error {
	from := c.Stdin
	if v.File != "-" {
		f, err := os.Open(v.File)
		if err != nil {
			return fmt.Errorf("verify the backup: %w", err)
		}
		defer f.Close()
		from = f
	}
	file, info, err := c.readBackup(v.File, from)
	if err != nil {
		return err
	}
	return showBackup(c, &v.Output, v.File, file, info)
}

// readBackup checks a backup and returns what it is.
func (c *Context) readBackup(name string, r io.Reader) (*digested, BackupInfo, error) {
	if c.VerifyBackup == nil {
		return nil, BackupInfo{}, errNoBackups
	}
	file := newDigested()
	info, err := c.VerifyBackup(io.TeeReader(r, file))
	if err != nil {
		return nil, BackupInfo{}, fmt.Errorf("%s is not a sound backup: %w", name, err)
	}
	return file, info, nil
}
