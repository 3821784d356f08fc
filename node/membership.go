package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"connectrpc.com/connect"

	"gw/raftstore"
	"gw/rpc"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

const (
	// joinRetry is the time between two attempts to be added.
	joinRetry = time.Second
	// membershipCheck is how often a hub looks whether it is still a member.
	membershipCheck = 2 * time.Second
	// silenceLimit is for how long a leader may be silent before a hub asks the others whether it was removed.
	silenceLimit = 10 * time.Second
)

// errRemoved is what a hub stops with when it was taken out of its cluster.
var errRemoved = errors.New("this hub was removed from its cluster, so it stops; to join again, start with an empty data directory and a new join token")

// errAdopted is what a hub stops with when its cluster took on the identity of a backup. Everything it shows and trusts
// follows from that identity, so it begins anew with it.
var errAdopted = errors.New("the cluster took on the identity of the backup that was restored: start this hub again")

// keepMember has the hub added to the cluster if it is not a member, and stops it once it was removed.
func (h *hub) keepMember(ctx context.Context) error {
	for {
		wait := membershipCheck
		switch member, err := h.isMember(); {
		case err != nil:
			h.log.Debug("the membership can't be read", "error", err)
		case h.isRemoved():
			return errRemoved
		case h.adopted():
			if err := h.saveIdentity(h.store.State().Cluster()); err != nil {
				return err
			}
			return errAdopted
		case !member:
			wait = joinRetry
			if err := h.askToBeAdded(ctx); err != nil {
				if reasonOf(err) == rpc.ReasonRemoved {
					return errRemoved
				}
				h.log.Warn("not added to the cluster yet", "error", err)
			}
		case h.leaderIsSilent() && h.othersSayRemoved(ctx):
			return errRemoved
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// leaderIsSilent reports whether no leader has spoken to this hub since it was started, or for long.
func (h *hub) leaderIsSilent() bool {
	contact := h.store.LeaderContact()
	return contact < 0 || contact > silenceLimit
}

func (h *hub) isMember() (bool, error) {
	members, err := h.store.Members()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.Self }), nil
}

// adopted reports whether the cluster has another identity than this hub shows.
func (h *hub) adopted() bool {
	c := h.store.State().Cluster()
	return c.GetClusterId() != "" && (c.ClusterId != h.ca.ClusterID() || !bytes.Equal(c.CaCertificate, h.ca.Certificate.Raw))
}

func (h *hub) isRemoved() bool {
	record, known := h.store.State().Hub(h.store.NodeID())
	return known && record.Removed
}

// memberAddresses returns the addresses of the other hubs that are members: the leader's first.
func (h *hub) memberAddresses() []string {
	var addresses []string
	_, leader := h.store.Leader()
	addresses = h.addAddress(addresses, leader)
	for record := range h.store.State().Hubs() {
		if !record.Removed {
			addresses = h.addAddress(addresses, record.Address)
		}
	}
	return addresses
}

// otherHubs returns the addresses of every hub that this one has heard of, members first, without its own.
func (h *hub) otherHubs() []string {
	addresses := h.memberAddresses()
	if members, err := h.store.Members(); err == nil {
		for _, m := range members { // after a start they are known before the state is
			addresses = h.addAddress(addresses, m.Address)
		}
	}
	for _, known := range h.knownHubs {
		addresses = h.addAddress(addresses, known.Address)
	}
	if join, err := url.Parse(h.config.Join); err == nil {
		addresses = h.addAddress(addresses, join.Host) // all that is known after a start that was cut short before this hub was added
	}
	return addresses
}

// addAddress adds an address of another hub, once.
func (h *hub) addAddress(addresses []string, address string) []string {
	if address == "" || address == h.address() || slices.Contains(addresses, address) {
		return addresses
	}
	return append(addresses, address)
}

// askToBeAdded asks every known hub, until the leader is among them, to add this one.
func (h *hub) askToBeAdded(ctx context.Context) error {
	err := errors.New("no other hub is known; start it with --join URL --token TOKEN")
	for _, address := range h.otherHubs() {
		if err = h.addAt(ctx, "https://"+address); err == nil {
			return nil
		}
	}
	return err
}

func (h *hub) addAt(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	answer, err := h.hubClient(url).AddHub(ctx, &gwv1.AddHubRequest{Address: h.address(), Version: Version()})
	if err != nil {
		return fmt.Errorf("ask %s to be added: %w", url, err)
	}
	h.log.Info("added to the cluster, without a vote until caught up", "by", url, "hubs", len(answer.Hubs))
	return nil
}

// othersSayRemoved reports whether a hub that can be reached says that this one was removed.
func (h *hub) othersSayRemoved(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, address := range h.otherHubs() {
		if _, err := h.hubClient("https://"+address).Describe(ctx, &gwv1.DescribeRequest{}); reasonOf(err) == rpc.ReasonRemoved {
			return true
		}
	}
	return false
}

func (h *hub) hubClient(url string) gwv1connect.HubServiceClient {
	return gwv1connect.NewHubServiceClient(&http.Client{Transport: h.peers}, url)
}

// reasonOf returns the stable word that an error from the wire carries, "" if there is none.
func reasonOf(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	for _, d := range e.Details() {
		if value, err := d.Value(); err == nil {
			if detail, ok := value.(*gwv1.ErrorDetail); ok {
				return detail.Reason
			}
		}
	}
	return ""
}
