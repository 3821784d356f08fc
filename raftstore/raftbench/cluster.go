package raftbench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// stream is loopback TCP without TLS: the reference has none either.
type stream struct{ net.Listener }

func (stream) DialHub(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

func openHub(c Config, name string, join bool) (*raftstore.Store, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return raftstore.Open(raftstore.Config{
		Dir: filepath.Join(c.Dir, name), ElectionTimeout: c.ElectionTimeout, Logger: quiet(), Version: "bench",
		Stream: stream{l}, Join: join,
		Bootstrap: func(string) (*gwv1.Bootstrap, error) { return &gwv1.Bootstrap{ClusterId: "bench"}, nil },
	})
}

// cluster is three hubs in this process.
type cluster struct {
	config Config
	hubs   []*raftstore.Store
	names  []string
	duties sync.WaitGroup // end when the hubs are closed
}

// openCluster grows one hub to three voters.
func openCluster(ctx context.Context, c Config, name string) (k *cluster, err error) {
	k = &cluster{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	for i := range 3 {
		hub := fmt.Sprintf("%s-%d", name, i)
		s, err := openHub(c, hub, i > 0)
		if err != nil {
			return k, err
		}
		k.hubs, k.names = append(k.hubs, s), append(k.names, hub)
		k.keep(ctx, s)
	}
	for _, s := range k.hubs[1:] {
		if err := k.add(ctx, s); err != nil {
			return k, err
		}
	}
	return k, k.until(ctx, func() bool { return voting(k.hubs[0]) == 3 && voting(k.hubs[1]) == 3 && voting(k.hubs[2]) == 3 })
}

// keep runs the leader's duty towards the members.
func (k *cluster) keep(ctx context.Context, s *raftstore.Store) {
	k.duties.Go(func() {
		// It ends with the hub; why one couldn't get its vote shows in that it hasn't.
		_ = s.KeepMembership(ctx, raftstore.MembershipConfig{Settle: 200 * time.Millisecond})
	})
}

// add makes a hub a member, or tells the leader where it is now.
func (k *cluster) add(ctx context.Context, s *raftstore.Store) error {
	leader, err := k.leader(ctx)
	if err != nil {
		return err
	}
	return leader.AddLearner(ctx, s.NodeID(), s.Address())
}

func voting(s *raftstore.Store) (n int) {
	members, err := s.Members()
	if err != nil {
		return 0
	}
	for _, m := range members {
		if m.Voter {
			n++
		}
	}
	return n
}

// until asks until ok holds.
func (k *cluster) until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (k *cluster) leader(ctx context.Context) (leader *raftstore.Store, err error) {
	err = k.until(ctx, func() bool {
		for _, s := range k.hubs {
			if s.Leading() {
				leader = s
			}
		}
		return leader != nil
	})
	return leader, err
}

func (k *cluster) close() error {
	var errs []error
	for _, s := range k.hubs {
		errs = append(errs, s.Close())
	}
	k.duties.Wait()
	return errors.Join(errs...)
}

// save is a command of about a kilobyte.
func save(name string, spec []byte) *gwv1.Command {
	d := resource.DigestOf("API", name, spec)
	return &gwv1.Command{Actor: "bench", Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{
		Edits: []*gwv1.ResourceEdit{{Kind: "API", Namespace: resource.Default, Name: name, Spec: spec, Digest: d[:]}},
	}}}
}
