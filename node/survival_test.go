package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/node/uplink"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// call sends a request to an edge, with a token unless that is "", and returns the status and the code of an error.
func call(t *testing.T, e *edge, path, token string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequest("GET", e.callers.url()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(data)
}

// upstream answers every request by what it is.
func upstream(t *testing.T, what string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, what) }))
	t.Cleanup(s.Close)
	return s.URL
}

// releaseOf makes a release of one API that needs no token, with n KiB that no compression makes smaller.
func releaseOf(t *testing.T, number uint64, path, upstream string, kib int) uplink.Release {
	t.Helper()
	spec := &gwv1.APISpec{Paths: []string{path}, Auth: gwv1.Auth_AUTH_KEYLESS, Upstreams: []*gwv1.Upstream{{Url: upstream, Weight: proto.Uint32(1)}}}
	if kib > 0 {
		spec.RequestHeaders = &gwv1.HeaderEdits{Set: map[string]string{}}
	}
	for i := range kib {
		spec.RequestHeaders.Set[fmt.Sprintf("X-N-%d", i)] = strings.Repeat(fmt.Sprint(i%10), 1024)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	digest := resource.DigestOf("API", "a", b)
	entries := []resource.Entry{{Kind: "API", Name: "a", Digest: digest}}
	sum := resource.Checksum(func(yield func(resource.Entry) bool) { yield(entries[0]) })
	return uplink.Release{
		Target: &gwv1.Target{Epoch: 1, Number: number, Checksum: sum[:]}, Namespace: "default",
		Entries: entries, Blobs: []*gwv1.Blob{{Digest: digest[:], Kind: "API", Name: "a", Spec: b}},
	}
}

// fillUp writes to a file in dir until no byte goes in any more.
func fillUp(t *testing.T, dir string) (path string) {
	t.Helper()
	path = filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return path
}

// With no byte left on its disk an edge takes and serves new releases from memory and says that they are not saved; once
// there is room they are, and a restart brings the last one.
func TestE4_DiskFullKeepsServingFromMemoryAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	privileged(t, "a small disk", "mount", "-t", "tmpfs", "-o", "size=4m", "gw-edge", dir)
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	e := openTestEdge(t, dir)
	served := make(chan error, 1)
	go func() { served <- e.callers.serve() }()
	one, two := upstream(t, "one"), upstream(t, "two")
	if err := e.release.apply(t.Context(), releaseOf(t, 1, "/a", one, 0)); err != nil {
		t.Fatal(err)
	}
	ballast := fillUp(t, dir)
	for number := uint64(2); number <= 4; number++ {
		if err := e.release.apply(t.Context(), releaseOf(t, number, "/a", two, 60)); err != nil {
			t.Fatalf("release %d: %v", number, err)
		}
		if status, body := call(t, e, "/a", ""); status != http.StatusOK || body != "two" {
			t.Errorf("release %d: got %d %q", number, status, body)
		}
		want := fmt.Sprint("save release ", number)
		if h := e.health(); h.State != gwv1.Health_HEALTH_DEGRADED || !strings.Contains(h.Reason, want) || !strings.Contains(h.Reason, "0 MiB are free") {
			t.Errorf("got health %v, %q, want that it can't %s and that nothing is free", h.State, h.Reason, want)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(2 * time.Minute)
	for tick := time.Tick(20 * time.Millisecond); strings.Contains(e.health().Reason, "save"); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("it was not saved: %s", e.health().Reason)
		}
	}
	e.callers.shutdown(time.Second)
	<-served
	e.close()
	again := openTestEdge(t, dir)
	again.release.loadFromDisk(t.Context(), "default")
	if got := again.release.loaded().Number; got != 4 {
		t.Errorf("after a restart release %d serves, want 4", got)
	}
}

// The newest release on disk is damaged: an edge without a hub serves the one before, and serves nothing that is neither.
func TestE4_CorruptReleaseOnDiskServesTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	e := openTestEdge(t, dir)
	for number, path := range []string{"/one", "/two"} {
		if err := e.release.apply(t.Context(), releaseOf(t, uint64(number+1), path, upstream(t, path), 0)); err != nil {
			t.Fatal(err)
		}
	}
	e.close()
	path := filepath.Join(dir, "config.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(data), "/two")
	if at < 0 {
		t.Fatal("release 2 is not in the file")
	}
	for at >= 0 { // everywhere it stands
		data[at+1] = 'T'
		at = strings.LastIndex(string(data), "/two")
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	e = openTestEdge(t, dir)
	e.release.loadFromDisk(t.Context(), "default")
	go e.callers.serve()
	defer e.callers.shutdown(time.Second)
	if status, body := call(t, e, "/one", ""); status != http.StatusOK || body != "/one" {
		t.Errorf("got %d %q, want release 1 to serve", status, body)
	}
	if status, _ := call(t, e, "/Two", ""); status != http.StatusNotFound {
		t.Errorf("what the disk made of release 2 is served: %d", status)
	}
}

// An app whose policy the edge hasn't loaded is refused, never let through without it.
func TestE6_06MissingPolicyIsNeverOpen(t *testing.T) {
	w := startTogether(t)
	w.apply(t, fmt.Sprintf("kind: API\nmetadata: {name: hello}\nspec: {paths: [/hello], upstreams: [{url: %q}]}\n", upstream(t, "hello")))
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync", inSync)
	token := w.appToken(t, &gwv1.App{Name: "free", Targets: []string{"API/hello"}})
	if status, body := call(t, w.edge, "/hello", token); status != http.StatusOK || body != "hello" {
		t.Fatalf("without a policy: %d %s", status, body)
	}
	token = w.appToken(t, &gwv1.App{Name: "limited", Targets: []string{"API/hello"}, Policies: []string{"limit"}})
	if status, body := call(t, w.edge, "/hello", token); status != http.StatusServiceUnavailable || !strings.Contains(body, "policy_not_loaded") {
		t.Errorf("with a policy that is not there: %d %s, want 503 policy_not_loaded", status, body)
	}
}

// appToken makes an app and a token of it.
func (w *together) appToken(t *testing.T, app *gwv1.App) string {
	t.Helper()
	if _, err := w.hub.services.Access.CreateApp(w.ctx, &gwv1.CreateAppRequest{App: app}); err != nil {
		t.Fatal(err)
	}
	answer, err := w.hub.services.Access.CreateToken(w.ctx, &gwv1.CreateTokenRequest{App: app.Name, Namespace: app.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Credential
}

// An edge gets nothing of a namespace that its certificate is not for: no route, no token, no secret.
func TestE6_08EdgeANeverGetsConfigurationOfEdgeB(t *testing.T) {
	w := startTogether(t) // an edge in namespace default
	answer, err := w.hub.services.Access.CreateJoinToken(w.ctx, &gwv1.CreateJoinTokenRequest{Namespace: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	eu, err := openEdge(ctx, EdgeConfig{
		DataDir: t.TempDir(), ID: "edge-eu", Hub: []string{w.hub.urls()[0]}, JoinToken: answer.Credential,
		Listen: "127.0.0.1:0", OpsListen: "off", TokenTTL: time.Minute, AccessLog: "off",
	}, io.Discard, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- eu.run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	const api = "kind: API\nmetadata: {name: %s, namespace: %s}\nspec: {paths: [/%s], upstreams: [{url: %q}], credential: {secret: key}}\n"
	var tokens []string
	for _, namespace := range []string{"default", "eu"} {
		if _, err := w.hub.services.Access.PutSecret(w.ctx, &gwv1.PutSecretRequest{Namespace: namespace, Name: "key", Value: "secret of " + namespace}); err != nil {
			t.Fatal(err)
		}
		w.apply(t, fmt.Sprintf(api, "of-"+namespace, namespace, namespace, upstream(t, namespace)))
		tokens = append(tokens, w.appToken(t, &gwv1.App{Name: "app", Namespace: namespace, Targets: []string{"*"}}))
	}
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync", inSync)
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); eu.gateway.Table() == nil; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal("the edge of eu has loaded nothing")
		}
	}
	for i, e := range []*edge{w.edge, eu} {
		own, other := []string{"/default", "/eu"}[i], []string{"/eu", "/default"}[i]
		if status, body := call(t, e, own, tokens[i]); status != http.StatusOK || body != own[1:] {
			t.Errorf("%s at its own edge: %d %s", own, status, body)
		}
		if status, _ := call(t, e, other, tokens[i]); status != http.StatusNotFound {
			t.Errorf("%s at the other edge: %d, want 404", other, status)
		}
		if status, _ := call(t, e, own, tokens[1-i]); status != http.StatusUnauthorized {
			t.Errorf("%s with a token of the other namespace: %d, want 401", own, status)
		}
		if got, _ := e.uplink.Secret("key"); got != "secret of "+own[1:] {
			t.Errorf("the edge of %s holds another secret", own[1:])
		}
	}
}
