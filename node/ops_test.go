package node

import (
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"gw/node/edgestore"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// openTestEdge opens an edge on dir that reaches no hub and serves on loopback.
func openTestEdge(t *testing.T, dir string) *edge {
	t.Helper()
	join := identity.JoinToken{ID: "0123456789abcdef", Secret: make([]byte, 32)}
	e, err := openEdge(t.Context(), EdgeConfig{
		DataDir: dir, Hub: []string{"https://127.0.0.1:1"}, JoinToken: join.String(), ID: "edge-1",
		Listen: "127.0.0.1:0", OpsListen: "off", AccessLog: "off", OfflineGrace: 24 * time.Hour, TokenTTL: 5 * time.Minute,
	}, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

func TestHealthTellsOfTheGraceOnlyWhileItServes(t *testing.T) {
	dir := t.TempDir()
	store, err := edgestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	known, stranger := [32]byte{1}, [32]byte{2}
	err = store.SaveToken(known, &gwv1.StoredToken{
		Answer: &gwv1.ValidateTokenResponse{Valid: true, AppId: "app", App: "app"}, ValidatedAt: time.Now().Add(-time.Hour).UnixNano(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	e := openTestEdge(t, dir)
	if _, err := e.tokens.Authenticate(t.Context(), stranger, ""); err == nil {
		t.Fatal("a token nobody knows was granted")
	}
	if h := e.health(); h.State != gwv1.Health_HEALTH_OK {
		t.Errorf("one question without an answer: got %v, %q", h.State, h.Reason)
	}
	if _, err := e.tokens.Authenticate(t.Context(), known, ""); err != nil {
		t.Fatal(err)
	}
	if h := e.health(); h.State != gwv1.Health_HEALTH_DEGRADED || !strings.Contains(h.Reason, "offline grace") {
		t.Errorf("a token is served on the grace: got %v, %q", h.State, h.Reason)
	}
}

func TestHealthTellsOfAFullDisk(t *testing.T) {
	e := openTestEdge(t, t.TempDir())
	e.space = func(string) (free, total uint64, err error) { return 100 << 20, 1 << 40, nil }
	if h := e.health(); h.State != gwv1.Health_HEALTH_DEGRADED || !strings.Contains(h.Reason, "100 MiB are free") {
		t.Errorf("got %v, %q", h.State, h.Reason)
	}
}

func TestVitalsSayWhatTheProcessHolds(t *testing.T) {
	v := openTestEdge(t, t.TempDir()).vitals()
	if v.CpuSecondsTotal <= 0 || v.Cpus == 0 || v.Goroutines == 0 || v.DiskTotalBytes < v.DiskFreeBytes || v.DiskTotalBytes == 0 {
		t.Errorf("got %v", v)
	}
	if runtime.GOOS == "linux" && v.RssBytes < 1<<20 {
		t.Errorf("%d bytes are resident", v.RssBytes)
	}
}
