package raftstore

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

const writers = 64

// BenchmarkPropose is committed writes of 1 KB by 64 writers, on this machine's disk.
func BenchmarkPropose(b *testing.B) {
	s, err := Open(testConfig(b.TempDir()))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	spec, n := strings.Repeat("x", 900), atomic.Int64{}
	b.SetParallelism(writers / 2)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := s.Propose(b.Context(), save("default", fmt.Sprintf("r%d", n.Add(1)%1000), spec)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRaftAlone is the same on Raft and raft-boltdb with nothing of ours.
func BenchmarkRaftAlone(b *testing.B) {
	dir := b.TempDir()
	db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s := &Store{config: testConfig(dir), log: testConfig(dir).Logger, id: "alone"}
	c := s.raftConfig()
	_, trans := raft.NewInmemTransport("alone")
	members := raft.Configuration{Servers: []raft.Server{{ID: c.LocalID, Address: "alone"}}}
	snaps := raft.NewInmemSnapshotStore()
	if err := raft.BootstrapCluster(c, db, db, snaps, trans, members); err != nil {
		b.Fatal(err)
	}
	r, err := raft.NewRaft(c, &raft.MockFSM{}, db, db, snaps, trans)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { r.Shutdown().Error() }()
	<-r.LeaderCh()
	entry := make([]byte, 1024)
	b.SetParallelism(writers / 2)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := r.Apply(entry, time.Minute).Error(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
