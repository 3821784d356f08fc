package uplink

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"gw/node/edgestore"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// losesEnrolments has the hub serve Enroll, and the connection break before the answer is sent, until the returned function
// is called.
func (h *fakeHub) losesEnrolments() (noMore func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	whole := h.handler
	h.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Base(r.URL.Path) == "Enroll" {
			whole.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		whole.ServeHTTP(w, r)
	})
	return func() { h.do(func() { h.handler = whole }) }
}

// asked waits until the hub has served n enrolments, and returns their certificate requests.
func (h *fakeHub) asked(t *testing.T, n int) [][]byte {
	t.Helper()
	await(t, "the hub has served an enrolment", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.csrs) >= n
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.csrs
}

func TestJoinTokenForOneEdgeOutlastsAProcessThatEndsBeforeItsAnswer(t *testing.T) {
	h := newFakeHub(t)
	h.takesOne = true
	h.push(map[string]string{"a": "1"})
	dir := t.TempDir()
	file := filepath.Join(dir, "enrolment.pb")
	e := newTestEdge(t, h)
	open := func() *edgestore.Store {
		s, err := edgestore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		e.config.Store = s
		return s
	}

	s := open()
	answer := h.losesEnrolments()
	stop := e.start()
	h.asked(t, 1)
	stop()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key to enrol with: %v, %v, want a file of mode 0600", info, err)
	}
	if _, err := s.Identity(); !errors.Is(err, edgestore.ErrNone) {
		t.Errorf("an identity without an answer: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	answer()
	s = open()
	t.Cleanup(func() { s.Close() }) // after the Uplink's end
	e.start()
	e.awaitRelease(1)
	if id, err := s.Identity(); err != nil || id.EdgeId != "edge-1" {
		t.Errorf("got %v, %v", id.GetEdgeId(), err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key to enrol with is still kept: %v", err)
	}
}

func TestEdgeThatComesBackOutlastsAProcessThatEndsBeforeItsAnswer(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	stop := e.start()
	receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	stop()
	token, err := identity.ParseJoinToken(h.token)
	if err != nil {
		t.Fatal(err)
	}
	token.ID = strings.Repeat("f", len(token.ID))
	e.config.JoinToken = token.String()

	answer := h.losesEnrolments()
	h.revoke()
	stop = e.start()
	first := h.asked(t, 2)[1]
	stop()
	n := len(h.asked(t, 2))
	answer()
	h.revoke()
	e.start()
	if again := h.asked(t, n+1)[n]; !bytes.Equal(again, first) {
		t.Error("the process that was started again asked for another certificate: a token for one edge is used up")
	}
	await(t, "the new identity is saved", func() bool {
		id, err := e.store.Identity()
		return err == nil && id.JoinTokenId == token.ID
	})
}

func TestAnotherJoinTokenIsShownWithAnotherKey(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.build()
	csr := func(token string) []byte {
		t.Helper()
		asked, err := e.uplink.enrolment(token)
		if err != nil {
			t.Fatal(err)
		}
		return asked.Csr
	}
	one := csr("one")
	if !bytes.Equal(csr("one"), one) {
		t.Error("asked again with the same token: another request")
	}
	two := csr("two")
	if bytes.Equal(two, one) {
		t.Error("asked with another token: the same request")
	}
	e.uplink.c.EdgeID = "edge-2"
	if bytes.Equal(csr("two"), two) {
		t.Error("asked under another ID: the same request")
	}
	e.store.fault = errors.New("no space left")
	if fresh := csr("three"); len(fresh) == 0 || bytes.Equal(fresh, two) {
		t.Error("a disk that refuses keeps the edge from enrolling")
	}
}
