package uplink

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"testing"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// rotate gives the one secret of the hub another value, and returns the access version of that.
func (h *fakeHub) rotate(name, value string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.access++
	h.secrets = []*gwv1.SecretValue{{Name: name, Version: h.access, Value: []byte(value)}}
	h.changes = append(h.changes, &gwv1.AccessChange{Version: h.access, Change: &gwv1.AccessChange_ChangedSecret{ChangedSecret: name}})
	h.changedLocked()
	return h.access
}

// serveSecrets has FetchSecrets served by a handler, which may call the one there was before.
func (h *fakeHub) serveSecrets(by func(before http.Handler) http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.handler
	secrets := by(before)
	h.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Base(r.URL.Path) == "FetchSecrets" {
			secrets(w, r)
			return
		}
		before.ServeHTTP(w, r)
	})
}

func (e *testEdge) awaitSecret(name, value string) {
	e.t.Helper()
	await(e.t, "secret "+name+" is "+value, func() bool {
		v, _ := e.uplink.Secret(name)
		return v == value
	})
}

func TestSecretRotatedBeforeARestartIsFetchedAfterIt(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.needs = []string{"key"}
	h.rotate("key", "one")
	h.push(map[string]string{"a": "1"})
	stop := e.start()
	e.awaitRelease(1)
	e.awaitSecret("key", "one")

	whole := h.handler
	h.serveSecrets(func(http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			connect.NewErrorWriter().Write(w, r, refusal(connect.CodeUnavailable, "", "not now"))
		}
	})
	version := h.rotate("key", "two")
	await(t, "the version is on disk", func() bool {
		a, err := e.store.Access(t.Context())
		return err == nil && a.AccessVersion == version
	})
	stop()
	h.do(func() { h.handler, h.secretReads = whole, 0 })

	e.start()
	e.awaitSecret("key", "two")
	h.awaitTicks(10)
	if n := h.count(&h.secretReads); n != 1 {
		t.Errorf("the secrets were read %d times after the restart, want once", n)
	}
}

func TestEdgeWithoutSecretsAsksForNoneAtItsStart(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	stop := e.start()
	e.awaitRelease(1)
	stop()
	e.start()
	receive(t, "a heartbeat", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.SessionId == e.uplink.session })
	h.rotate("key", "one") // which nothing here needs
	h.awaitTicks(10)
	if n := h.count(&h.secretReads); n != 0 {
		t.Errorf("the secrets were read %d times", n)
	}
}

func TestRotationOvertakesTheFirstReadOfASecret(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.needs = []string{"key"}
	h.rotate("key", "one")
	read, told := make(chan struct{}, 100), make(chan struct{})
	h.serveSecrets(func(before http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			before.ServeHTTP(answer, r)
			read <- struct{}{}
			select {
			case <-told:
			case <-r.Context().Done():
			}
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			w.Write(answer.Body.Bytes())
		}
	})
	h.push(map[string]string{"a": "1"})
	e.start()
	receive(t, "the first read", read, anyOf[struct{}])
	version := h.rotate("key", "two")
	await(t, "the change is told", func() bool { return e.uplink.Status().AccessVersion == version })
	close(told)
	e.awaitRelease(1)
	e.awaitSecret("key", "two")
}

func TestRotatedSecretServesThoughTheReleaseCanNotBeFetched(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.needs = []string{"key"}
	h.rotate("key", "one")
	h.push(map[string]string{"a": "1"})
	e.start()
	e.awaitRelease(1)
	h.do(func() {
		h.mangle = func(p *gwv1.FetchReleaseResponse) {
			if header := p.GetHeader(); header != nil {
				wrong := resource.DigestOf("API", "a", nil)
				header.Target = &gwv1.Target{Epoch: 1, Number: header.Target.Number, Checksum: wrong[:]}
			}
		}
	})
	h.push(map[string]string{"a": "2"})
	receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil })
	h.rotate("key", "two")
	e.awaitSecret("key", "two")
	if got := e.uplink.c.Loaded().Number; got != 1 {
		t.Errorf("release %d serves, want 1: the fault was gone before the secret came", got)
	}
}
