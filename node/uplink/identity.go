package uplink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// credentials are a certificate in use, with the connections made under it. Immutable but for the clients.
type credentials struct {
	stored    *gwv1.StoredIdentity
	edge      identity.Edge
	leaf      *x509.Certificate
	config    *tls.Config
	transport *http.Transport

	mu      sync.Mutex
	clients map[route]gwv1connect.EdgeServiceClient // guarded by mu
}

// newCredentials checks that the parts of an identity belong together: key, certificate, CA, names. An expired one is
// accepted, since it may still be renewed.
func newCredentials(stored *gwv1.StoredIdentity, p pace) (*credentials, error) {
	leaf, err := x509.ParseCertificate(stored.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	ca, err := x509.ParseCertificate(stored.CaCertificate)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	if !ca.IsCA {
		return nil, errors.New("CA certificate is not a CA's")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(stored.PrivateKey)
	if err != nil {
		return nil, errors.New("private key doesn't decode")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("private key is not the certificate's")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	edge, err := identity.EdgeOf(leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if want := (identity.Edge{ClusterID: stored.ClusterId, Namespace: stored.Namespace, ID: stored.EdgeId}); edge != want {
		return nil, fmt.Errorf("certificate names edge %q in namespace %q of cluster %q, want %q in %q of %q",
			edge.ID, edge.Namespace, edge.ClusterID, want.ID, want.Namespace, want.ClusterID)
	}
	certificate := &tls.Certificate{Certificate: [][]byte{stored.Certificate}, PrivateKey: key, Leaf: leaf}
	config := identity.EdgeTLS(ca, edge.ClusterID, func() *tls.Certificate { return certificate })
	return &credentials{
		stored: stored, edge: edge, leaf: leaf, config: config, transport: newTransport(config, p),
		clients: make(map[route]gwv1connect.EdgeServiceClient),
	}, nil
}

// afresh returns the same credentials without their connections. A new one still resumes the session.
func (c *credentials) afresh(p pace) *credentials {
	return &credentials{
		stored: c.stored, edge: c.edge, leaf: c.leaf, config: c.config, transport: newTransport(c.config, p),
		clients: make(map[route]gwv1connect.EdgeServiceClient),
	}
}

// client returns the client for a route under this certificate.
func (c *credentials) client(r route) gwv1connect.EdgeServiceClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	client, ok := c.clients[r]
	if !ok {
		if len(c.clients) >= maxHubs {
			clear(c.clients)
		}
		client = newClient(c.transport, r)
		c.clients[r] = client
	}
	return client
}

// renewAt returns when two thirds of the certificate's life are over.
func (c *credentials) renewAt() time.Time {
	return c.leaf.NotBefore.Add(c.leaf.NotAfter.Sub(c.leaf.NotBefore) * 2 / 3)
}

// adopt makes c the identity from now on.
func (u *Uplink) adopt(c *credentials) {
	u.ident.Store(c)
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, hub := range c.stored.HubUrls {
		if checkHubURL(hub) == nil {
			u.hubs.add(hub)
		}
	}
}

// saveIdentity writes the identity in use, with the hubs known now. A disk that refuses is logged: the edge goes on.
func (u *Uplink) saveIdentity() {
	u.saving.Lock()
	defer u.saving.Unlock()
	stored := proto.CloneOf(u.ident.Load().stored)
	u.mu.Lock()
	stored.HubUrls = append([]string(nil), u.hubs.urls...)
	u.mu.Unlock()
	if err := u.c.Store.SaveIdentity(stored); err != nil {
		u.log.Error("the edge's identity could not be saved; it lasts until the process ends", "error", err)
	}
}

// checkEnrolment says early what enrolling lacks.
func (u *Uplink) checkEnrolment() error {
	switch {
	case u.c.JoinToken == "":
		return errors.New("uplink: the edge has no identity yet: give --hub and --join-token (made by `gw join-token` on a hub)")
	case u.hubs.len() == 0:
		return errors.New("uplink: no hub is known: give at least one --hub URL")
	case !resource.ValidName(u.c.EdgeID):
		return fmt.Errorf("uplink: %q is not a name for an edge", u.c.EdgeID)
	}
	if _, err := identity.ParseJoinToken(u.c.JoinToken); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	return nil
}

// enrol exchanges the join token for a certificate. It tries until it has one, ctx ends or a hub refuses. The key and
// its request stay the same over all tries, those of an earlier process too, so that a hub can recognise a repeated one.
func (u *Uplink) enrol(ctx context.Context) error {
	token, err := identity.ParseJoinToken(u.c.JoinToken)
	if err != nil {
		return &EnrolmentError{Sentence: err.Error(), Err: err}
	}
	asked, err := u.enrolment(token.ID)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	transport := newTransport(identity.EnrollTLS(token.Pin), u.pace)
	defer transport.CloseIdleConnections()
	request := &gwv1.EnrollRequest{
		JoinTokenId: token.ID, JoinTokenSecret: token.Secret, EdgeId: asked.EdgeId, Csr: asked.Csr, Version: u.c.Version,
	}
	for failed := 1; ; failed++ {
		u.mu.Lock()
		hub := u.hubs.current()
		u.mu.Unlock()
		answer, err := u.enrolAt(ctx, transport, hub, request)
		if err == nil {
			return u.enrolled(token, asked.PrivateKey, answer)
		}
		if refused := enrolmentRefused(hub, err); refused != nil {
			return refused
		}
		wait, told := comeAgain(err, random())
		if !told {
			wait = u.pace.reconnect.delay(failed, random())
			u.mu.Lock()
			u.hubs.rotate()
			u.mu.Unlock()
		}
		u.log.Warn("could not enrol yet", "hub", hub, "error", err, "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait, nil) {
			return ctx.Err()
		}
	}
}

// enrolment returns what to enrol with: what an earlier try with the same token asked with, if it was not answered, or a new
// key, which is saved before a hub is asked. A token for one edge is used up by the first call that reaches a hub, whether
// or not its answer comes while this process lasts.
func (u *Uplink) enrolment(token string) (*gwv1.StoredEnrolment, error) {
	if e, err := u.c.Store.Enrolment(); err == nil && e.JoinTokenId == token && e.EdgeId == u.c.EdgeID {
		return e, nil
	}
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	e := &gwv1.StoredEnrolment{EdgeId: u.c.EdgeID, JoinTokenId: token, PrivateKey: key, Csr: csr}
	if err := u.c.Store.SaveEnrolment(e); err != nil {
		u.log.Error("the key to enrol with could not be saved; if the process ends before it has enrolled, the join token may be used up", "error", err)
	}
	return e, nil
}

// enrolAt calls a hub; if that is not the leader, the hub it names; and if that is out of reach, the first one again,
// to pass the call on.
func (u *Uplink) enrolAt(ctx context.Context, transport *http.Transport, hub string, request *gwv1.EnrollRequest) (*gwv1.EnrollResponse, error) {
	call := func(r route, limit time.Duration) (*gwv1.EnrollResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, u.pace.call)
		defer cancel()
		ctx, stop := reach(ctx, limit, new(atomic.Bool))
		defer stop()
		return newClient(transport, r).Enroll(ctx, request)
	}
	answer, err := call(route{hub: hub}, 0)
	leader := leaderOf(err)
	if leader == "" || leader == hub || checkHubURL(leader) != nil {
		return answer, err
	}
	answer, err = call(route{hub: leader}, u.pace.leader)
	if err == nil || answered(err) {
		return answer, err
	}
	return call(route{hub: hub, proxy: true}, 0)
}

// enrolled takes over what a hub answered, if it is what was asked for. An edge that already was somebody stays it.
func (u *Uplink) enrolled(token identity.JoinToken, key []byte, answer *gwv1.EnrollResponse) error {
	cred, err := newCredentials(&gwv1.StoredIdentity{
		EdgeId: u.c.EdgeID, Namespace: answer.Namespace, ClusterId: answer.ClusterId,
		Certificate: answer.Certificate, PrivateKey: key, CaCertificate: answer.CaCertificate, HubUrls: answer.HubUrls,
		JoinTokenId: token.ID,
	}, u.pace)
	if err == nil {
		ca, parseErr := x509.ParseCertificate(answer.CaCertificate)
		if parseErr != nil || identity.PinOf(ca) != token.Pin {
			err = identity.ErrWrongCluster
		}
	}
	if old := u.ident.Load(); err == nil && old != nil && old.edge != cred.edge {
		err = fmt.Errorf("the join token is for namespace %q, the edge runs in %q: use a new data directory", cred.edge.Namespace, old.edge.Namespace)
	}
	if err != nil {
		return &EnrolmentError{Sentence: "the hub's answer can't be used: " + err.Error(), Err: err}
	}
	u.adopt(cred)
	u.saveIdentity()
	u.log.Info("enrolled", "edge", cred.edge.ID, "namespace", cred.edge.Namespace, "cluster", cred.edge.ClusterID,
		"certificate_until", cred.leaf.NotAfter)
	return nil
}

// enrolmentRefused returns why trying again would not help, or nil if it may.
func enrolmentRefused(hub string, err error) error {
	if errors.Is(err, identity.ErrWrongCluster) {
		return &EnrolmentError{Sentence: hub + ": " + identity.ErrWrongCluster.Error(), Err: err}
	}
	if !answered(err) || connect.CodeOf(err) == connect.CodeUnimplemented {
		return nil
	}
	var e *connect.Error
	errors.As(err, &e)
	return &EnrolmentError{
		Reason:   reasonOf(err),
		Sentence: fmt.Sprintf("%s does not take this edge in: %s", hub, e.Message()),
		Err:      err,
	}
}

// newRequest makes a key (PKCS #8) and a certificate request for it.
func newRequest() (key, csr []byte, err error) {
	private, err := identity.NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if csr, err = identity.NewCSR(private); err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return key, csr, nil
}

// renew exchanges the certificate when two thirds of its life are over.
func (u *Uplink) renew(ctx context.Context) error {
	spread := random() // a fleet that enrolled together doesn't renew together
	for failed := 0; ; {
		id := u.ident.Load()
		life := id.leaf.NotAfter.Sub(id.leaf.NotBefore)
		due := id.renewAt().Add(time.Duration(spread * float64(life) / 50))
		wait := due.Sub(u.now())
		if wait > 0 {
			if !sleep(ctx, min(wait, u.pace.nap), nil) {
				return nil
			}
			continue
		}
		err := u.renewOnce(ctx, id)
		if err != nil && u.now().After(id.leaf.NotAfter) && u.mayEnrolAgain(err) && ctx.Err() == nil {
			u.log.Warn("the certificate has expired and can't be renewed; enrolling again", "error", err)
			if err = u.enrol(ctx); err == nil {
				wake(u.reopen)
			}
		}
		if err == nil {
			failed, spread = 0, random()
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		failed++
		var told bool
		if wait, told = comeAgain(err, random()); !told {
			wait = u.pace.renew.delay(failed, random())
		}
		u.log.Warn("the certificate could not be renewed yet", "expires", id.leaf.NotAfter, "error", err, "retry_in", wait.Round(time.Millisecond))
		early := u.renewNow
		if told {
			early = nil
		}
		if !sleep(ctx, wait, early) {
			return nil
		}
	}
}

// mayEnrolAgain reports whether a join token is to take the place of a certificate that has ended: if a hub says that it
// won't renew it. One that isn't reached may yet do so; and a revocation is not undone by the token that was used before.
func (u *Uplink) mayEnrolAgain(err error) bool {
	return u.c.JoinToken != "" && answered(err) && reasonOf(err) != revokedReason
}

// renewOnce gets a new certificate, tries it with a heartbeat, and only then commits to it: saves it and opens a new
// stream under it before the old one ends.
func (u *Uplink) renewOnce(ctx context.Context, old *credentials) error {
	key, csr, err := newRequest()
	if err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, u.pace.call)
	defer cancel()
	question := &gwv1.RenewCertificateRequest{Csr: csr}
	client, err := u.client()
	if err != nil {
		return err
	}
	answer, err := client.RenewCertificate(callCtx, question)
	if reasonOf(err) == notLeader {
		// With a certificate that has ended, no stream finds the leader.
		answer, err = u.passingOn().RenewCertificate(callCtx, question)
	}
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	stored := proto.CloneOf(old.stored)
	stored.Certificate, stored.PrivateKey = answer.Certificate, key
	if len(answer.CaCertificate) > 0 && !bytes.Equal(answer.CaCertificate, old.stored.CaCertificate) {
		return errors.New("renew certificate: the hub answered with another CA")
	}
	next, err := newCredentials(stored, u.pace)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	if _, err := u.heartbeat(ctx, next); err != nil {
		next.transport.CloseIdleConnections()
		return fmt.Errorf("try the renewed certificate: %w", err)
	}
	u.adopt(next)
	u.saveIdentity()
	wake(u.reopen)
	u.log.Info("certificate renewed", "until", next.leaf.NotAfter)
	return nil
}
