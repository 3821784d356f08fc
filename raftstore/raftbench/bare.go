package raftbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// bare is three members of hashicorp/raft with raft-boltdb and nothing of ours: the reference.
type bare struct {
	members []*raft.Raft
	closers []io.Closer
}

// nothing is a state machine without a state.
type nothing struct{}

func (nothing) Apply(*raft.Log) any { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("there is nothing to snapshot")
}
func (nothing) Restore(r io.ReadCloser) error { return r.Close() }

func openBare(c Config, name string) (b *bare, err error) {
	b = &bare{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	var servers []raft.Server
	var founder func(raft.Configuration) error
	for i := range 3 {
		config := raft.DefaultConfig()
		config.LocalID = raft.ServerID(fmt.Sprint(name, i))
		config.Logger = hclog.NewNullLogger()
		config.ElectionTimeout, config.HeartbeatTimeout = c.ElectionTimeout, c.ElectionTimeout
		config.LeaderLeaseTimeout = c.ElectionTimeout * 3 / 4
		config.SnapshotThreshold = 1 << 40
		dir := filepath.Join(c.Dir, string(config.LocalID))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return b, err
		}
		db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
		if err != nil {
			return b, err
		}
		b.closers = append(b.closers, db)
		trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, 5*time.Second, io.Discard)
		if err != nil {
			return b, err
		}
		b.closers = append(b.closers, trans)
		logs, err := raft.NewLogCache(512, db)
		if err != nil {
			return b, err
		}
		r, err := raft.NewRaft(config, nothing{}, logs, db, raft.NewInmemSnapshotStore(), trans)
		if err != nil {
			return b, err
		}
		b.members = append(b.members, r)
		servers = append(servers, raft.Server{ID: config.LocalID, Address: trans.LocalAddr()})
		if i == 0 {
			founder = func(m raft.Configuration) error { return r.BootstrapCluster(m).Error() }
		}
	}
	return b, founder(raft.Configuration{Servers: servers})
}

func (b *bare) leader(ctx context.Context) (*raft.Raft, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for _, r := range b.members {
			if r.State() == raft.Leader {
				return r, r.Barrier(time.Minute).Error()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *bare) close() error {
	var errs []error
	for _, r := range b.members {
		errs = append(errs, r.Shutdown().Error())
	}
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i].Close())
	}
	return errors.Join(errs...)
}
