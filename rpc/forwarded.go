package rpc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"gw/rpc/identity"
	"gw/rpc/resource"
)

// Headers of hubs among themselves, and of callers who say how they want to be served.
const (
	// headerForwarded is "1" on a call that another hub passed on; it is not passed on again.
	headerForwarded = "Gw-Forwarded"
	// headerPrincipal says for whom. It is believed from members of the cluster and removed from all other requests.
	headerPrincipal = "Gw-Principal"
	// headerOutcome is "again" on the answer to a forwarded call that changed nothing here because this hub doesn't lead.
	headerOutcome = "Gw-Outcome"
	// headerUnsure is "1" on the answer to a forwarded call that may have been done or not.
	headerUnsure = "Gw-Unsure"
	// headerIndex is the index of the state that an answer may be of.
	headerIndex = "Gw-Index"
	// headerConsistency asks for "stale" reads; headerAge tells how many seconds ago the leader was last heard.
	headerConsistency = "Gw-Consistency"
	headerAge         = "Gw-Age"
	// headerProxy is "allow" from an edge that can't reach the leader itself.
	headerProxy = "Gw-Proxy"
)

// maxPrincipal bounds the header: a principal names at most as many namespaces as fit.
const maxPrincipal = 32 << 10

// forwarded is for whom another hub passes a call on. At most one of session, user, edge and hub is set: none of them
// is a caller that has only an address, who may sign in or enrol.
type forwarded struct {
	// address the call came from, a host, or host:port for edges.
	address string
	// session is the hash of the bearer token; whose it is is decided by the leader, whose state is the newest.
	session []byte
	// user, role and namespaces are a principal that was established without a bearer token.
	user       string
	role       Role
	namespaces []string
	// edge is one with a verified certificate.
	edge *caller
	// hub is the ID in a verified certificate of a hub.
	hub string
}

// forwardedHeader is forwarded in JSON. Its version is raised when a hub that knows less must not take it in.
type forwardedHeader struct {
	Version    int                  `json:"v"`
	Address    string               `json:"address,omitempty"`
	Session    []byte               `json:"session,omitempty"`
	User       string               `json:"user,omitempty"`
	Role       string               `json:"role,omitempty"`
	Namespaces []string             `json:"namespaces,omitempty"`
	Edge       *forwardedEdgeHeader `json:"edge,omitempty"`
	Hub        string               `json:"hub,omitempty"`
}

type forwardedEdgeHeader struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Serial    string `json:"serial"`
	Lineage   uint64 `json:"lineage"`
	NotAfter  int64  `json:"not_after"` // Unix nanoseconds
}

const forwardedVersion = 1

func (f forwarded) encode() (string, error) {
	h := forwardedHeader{Version: forwardedVersion, Address: f.address, Session: f.session, User: f.user, Namespaces: f.namespaces, Hub: f.hub}
	if f.user != "" {
		h.Role = f.role.String()
	}
	if e := f.edge; e != nil {
		h.Edge = &forwardedEdgeHeader{Cluster: e.ClusterID, Namespace: e.Namespace, ID: e.ID, Serial: e.serial, Lineage: e.lineage, NotAfter: e.notAfter.UnixNano()}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", headerPrincipal, err)
	}
	s := base64.RawURLEncoding.EncodeToString(b)
	if len(s) > maxPrincipal {
		return "", fmt.Errorf("write %s: %d bytes are more than the %d a header may have", headerPrincipal, len(s), maxPrincipal)
	}
	return s, nil
}

// decodeForwarded reads a header strictly: what it doesn't understand whole, it refuses.
func decodeForwarded(s string) (forwarded, error) {
	refuse := func(err error) (forwarded, error) {
		return forwarded{}, fmt.Errorf("read %s: %w", headerPrincipal, err)
	}
	if len(s) > maxPrincipal {
		return refuse(fmt.Errorf("%d bytes are more than the %d it may have", len(s), maxPrincipal))
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return refuse(err)
	}
	var h forwardedHeader
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return refuse(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(errors.New("something follows it"))
	}
	f, err := h.check()
	if err != nil {
		return refuse(err)
	}
	return f, nil
}

func (h forwardedHeader) check() (forwarded, error) {
	f := forwarded{address: h.Address, session: h.Session, user: h.User, namespaces: h.Namespaces, hub: h.Hub}
	kinds := 0
	for _, set := range []bool{h.Session != nil, h.User != "", h.Edge != nil, h.Hub != ""} {
		if set {
			kinds++
		}
	}
	switch {
	case h.Version != forwardedVersion:
		return f, fmt.Errorf("version %d: this hub knows %d", h.Version, forwardedVersion)
	case kinds > 1:
		return f, errors.New("it names more than one caller")
	case h.Session != nil && len(h.Session) != 32:
		return f, errors.New("the session is no SHA-256")
	case h.User == "" && (h.Role != "" || len(h.Namespaces) > 0):
		return f, errors.New("a role without a user")
	}
	if len(h.Namespaces) == 0 {
		f.namespaces = nil
	}
	if h.User != "" {
		role, err := ParseRole(h.Role)
		if err != nil {
			return f, err
		}
		f.role = role
	}
	if e := h.Edge; e != nil {
		if e.Cluster == "" || !resource.ValidName(e.Namespace) || !resource.ValidName(e.ID) || e.Serial == "" {
			return f, errors.New("an edge without a cluster, a namespace, an ID or a serial")
		}
		f.edge = &caller{
			Edge:   identity.Edge{ClusterID: e.Cluster, Namespace: e.Namespace, ID: e.ID},
			serial: e.Serial, lineage: e.Lineage, notAfter: time.Unix(0, e.NotAfter), address: h.Address,
		}
	}
	return f, nil
}

type forwardedKey struct{}

// withForwarded returns the context of a call that a member of the cluster passed on.
func withForwarded(ctx context.Context, f forwarded) context.Context {
	return WithAddress(context.WithValue(ctx, forwardedKey{}, f), f.address)
}

func forwardedOf(ctx context.Context) (forwarded, bool) {
	f, ok := ctx.Value(forwardedKey{}).(forwarded)
	return f, ok
}
