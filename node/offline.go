package node

import (
	"context"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
	"time"

	"gw/node/cli"
	"gw/raftstore"
)

// recoverHub makes the hub of a data directory the only voter of its cluster, once confirm has agreed to what that means.
func recoverHub(_ context.Context, dataDir string, confirm func(text string) (bool, error)) error {
	dir := filepath.Join(dataDir, "raft")
	found, err := raftstore.Recover(dir, raftstore.RecoverConfig{})
	if err != nil {
		return err
	}
	if ok, err := confirm(explainRecovery(found)); err != nil || !ok {
		return err
	}
	_, err = raftstore.Recover(dir, raftstore.RecoverConfig{Confirmed: true})
	return err
}

// explainRecovery says what was found and what a recovery would do.
func explainRecovery(r raftstore.Recovery) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Hub %s of cluster %s, epoch %d. Its hubs, as this one knows them:\n", r.NodeID, r.ClusterID, r.Epoch)
	for _, m := range r.Members {
		vote, self := "votes", ""
		if !m.Voter {
			vote = "does not vote"
		}
		if m.Self {
			self = ", this one"
		}
		fmt.Fprintf(&b, "  %s  %s  %s%s\n", m.ID, m.Address, vote, self)
	}
	fmt.Fprintf(&b, "Its log ends at index %d of term %d", r.LastIndex, r.LastTerm)
	if !r.LastWrite.IsZero() {
		fmt.Fprintf(&b, ", the last change is of %s", r.LastWrite.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, `.

Recovering makes this hub the only voter:
  - the %d log entries after its snapshot all take effect, also those that were never acknowledged;
  - changes that were acknowledged by other hubs and did not reach this one are lost: of several hubs that are left,
    recover the one whose log ends last;
  - the other hubs must never start again with their data; they can join with empty directories.
`, r.Entries)
	return b.String()
}

// verifyBackup checks a whole backup and counts what is in it.
func verifyBackup(r io.Reader) (cli.BackupInfo, error) {
	st, err := raftstore.VerifyBackup(r)
	if err != nil {
		return cli.BackupInfo{}, err
	}
	info := cli.BackupInfo{
		ClusterID: st.Cluster().GetClusterId(), Epoch: st.Cluster().GetEpoch(), Index: st.Index(),
		Resources: count(st.Resources("")), Apps: count(st.Apps("")), Secrets: count(st.Secrets("")), Edges: count(st.Edges()), Users: count(st.Users()),
	}
	for app := range st.Apps("") {
		info.Tokens += count(st.Tokens(app.Id))
	}
	for _, namespace := range st.Namespaces() {
		info.Releases += count(st.Releases(namespace))
	}
	return info, nil
}

func count[T any](s iter.Seq[T]) (n int) {
	for range s {
		n++
	}
	return n
}
