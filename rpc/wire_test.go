package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// curl makes a call as curl does.
func (h *harness) curl(procedure, bearer, body string, header ...string) (status int, answer string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), "POST", h.admin+procedure, strings.NewReader(body))
	must(h.t, err)
	r.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	must(h.t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	must(h.t, err)
	return a.StatusCode, string(b)
}

// same compares JSON by meaning: protojson varies its spaces on purpose.
func same(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Errorf("got %q: %v", got, err)
		return
	}
	must(t, json.Unmarshal([]byte(want), &b))
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if string(x) != string(y) {
		t.Errorf("got  %s\nwant %s", x, y)
	}
}

func TestCurlWithJSON(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleOperator)
	status, body := h.curl(gwv1connect.FleetServiceListEdgesProcedure, token, "{}")
	if status != 200 {
		t.Errorf("status %d", status)
	}
	same(t, body, `{"summary":{}}`)
	status, body = h.curl(gwv1connect.ConfigServiceApplyResourcesProcedure, token,
		`{"resources":[{"kind":"API","metadata":{"name":"orders"},"spec":{"paths":["/orders"],"upstreams":[{"url":"http://127.0.0.1:9"}]}}],"dryRun":true}`)
	if status != 200 {
		t.Errorf("status %d", status)
	}
	same(t, body, `{"outcomes":[{"kind":"API","namespace":"default","name":"orders","change":"CHANGE_CREATED"}]}`)
	status, body = h.curl(gwv1connect.AccessServiceSignInProcedure, "", `{"user":"ann","password":"`+password+`"}`)
	var in struct{ BearerToken string }
	must(t, json.Unmarshal([]byte(body), &in))
	if status != 200 || !identity.CheckCredential("gwa_", in.BearerToken) {
		t.Errorf("sign in: %d %s", status, body)
	}
	_, body = h.curl(gwv1connect.AccessServiceWhoAmIProcedure, in.BearerToken, "{}")
	same(t, body, `{"user":"ann","role":"operator"}`)
}

func TestErrorsOnTheWireCarryADetail(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleOperator)
	type detail struct {
		Type  string
		Debug struct {
			Reason     string
			Violations []struct{ Field, Code, Kind, Name string }
		}
	}
	for name, c := range map[string]struct {
		procedure, bearer, body string
		status                  int
		code, reason, field     string
	}{
		"no token":      {gwv1connect.FleetServiceListEdgesProcedure, "", "{}", 401, "unauthenticated", ReasonUnauthenticated, ""},
		"a wrong token": {gwv1connect.FleetServiceListEdgesProcedure, identity.NewCredential("gwa_"), "{}", 401, "unauthenticated", ReasonUnauthenticated, ""},
		"not found":     {gwv1connect.FleetServiceGetEdgeProcedure, token, `{"id":"x"}`, 404, "not_found", ReasonNotFound, ""},
		"by the schema": {gwv1connect.FleetServiceGetEdgeProcedure, token, `{}`, 400, "invalid_argument", ReasonInvalid, "id"},
		"a resource": {gwv1connect.ConfigServiceApplyResourcesProcedure, token,
			`{"resources":[{"kind":"API","metadata":{"name":"a"},"spec":{"paths":["/"]}}]}`, 400, "invalid_argument", ReasonInvalidResource, "spec.upstreams"},
		"a role":                 {gwv1connect.AccessServicePutSecretProcedure, token, `{"name":"k","value":"v"}`, 403, "permission_denied", ReasonForbidden, ""},
		"a refusal of the state": {gwv1connect.AccessServiceDeleteAppProcedure, token, `{"name":"none"}`, 404, "not_found", ReasonNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := h.curl(c.procedure, c.bearer, c.body)
			var e struct {
				Code, Message string
				Details       []detail
			}
			must(t, json.Unmarshal([]byte(body), &e))
			if status != c.status || e.Code != c.code || e.Message == "" || len(e.Details) != 1 || e.Details[0].Type != "gw.v1.ErrorDetail" || e.Details[0].Debug.Reason != c.reason {
				t.Fatalf("got %d %s", status, body)
			}
			if v := e.Details[0].Debug.Violations; c.field != "" && (len(v) == 0 || v[0].Field != c.field) {
				t.Errorf("violations %v, want one of %q", v, c.field)
			}
		})
	}
}

func TestASecretIsNeverInAnError(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleAdmin)
	const value = "sk-topsecret"
	_, body := h.curl(gwv1connect.AccessServicePutSecretProcedure, token, `{"name":"Not A Name","value":"`+value+`"}`)
	if strings.Contains(body, value) || strings.Contains(h.log.String(), value) {
		t.Errorf("got %s", body)
	}
}

func TestEveryProtocolWorks(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleViewer)
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "connect get": {connect.WithHTTPGet()}, "connect json": {connect.WithProtoJSON()},
		"grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			client := gwv1connect.NewFleetServiceClient(h.h2c(), h.admin, append(options, bearer(token))...)
			if _, err := client.ListEdges(t.Context(), &gwv1.ListEdgesRequest{}); err != nil {
				t.Error(err)
			}
			_, err := client.GetEdge(t.Context(), &gwv1.GetEdgeRequest{Id: "none"})
			h.refused(err, connect.CodeNotFound, ReasonNotFound, "none")
		})
	}
}

func TestReflection(t *testing.T) {
	h := newHarness(t)
	stream := grpcreflect.NewClient(h.h2c(), h.admin, connect.WithGRPC()).NewStream(t.Context())
	defer stream.Close()
	names, err := stream.ListServices()
	must(t, err)
	found := map[protoreflect.FullName]bool{}
	for _, n := range names {
		found[n] = true
	}
	for _, want := range []protoreflect.FullName{"gw.v1.ConfigService", "gw.v1.ReleaseService", "gw.v1.FleetService", "gw.v1.AccessService"} {
		if !found[want] {
			t.Errorf("%s is missing in %v", want, names)
		}
	}
}

func TestTheIdempotencyKeyComesByHeader(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleOperator)
	h.app("", "web")
	for want := range 2 {
		status, body := h.curl(gwv1connect.AccessServiceCreateTokenProcedure, token, `{"app":"web"}`, "Idempotency-Key", "once")
		if got := strings.Contains(body, ReasonAlreadyDelivered); got != (want == 1) || (status == 200) != (want == 0) {
			t.Errorf("call %d: %d %s", want, status, body)
		}
	}
	if status, body := h.curl(gwv1connect.AccessServiceCreateTokenProcedure, token, `{"app":"web"}`, "Idempotency-Key", strings.Repeat("x", 200)); status != 400 {
		t.Errorf("an endless key: %d %s", status, body)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	h := newHarness(t)
	token := h.user("ann", RoleOperator)
	status, body := h.curl(gwv1connect.ConfigServiceApplyResourcesProcedure, token, `{"pruneNamespaces":["`+strings.Repeat("x", maxAdminRequest)+`"]}`)
	if status != 429 || !strings.Contains(body, "resource_exhausted") {
		t.Errorf("got %d %.200s", status, body)
	}
	// Nothing of a request is read before its caller is known.
	if status, _ := h.curl(gwv1connect.ConfigServiceApplyResourcesProcedure, "", `{"broken`); status != 401 {
		t.Errorf("got %d, want 401", status)
	}
}

func TestTheAddressOfTheCallerIsAudited(t *testing.T) {
	h := newHarness(t)
	h.curl(gwv1connect.AccessServiceCreateAppProcedure, h.user("ann", RoleOperator), `{"app":{"name":"web"}}`)
	for a := range h.store.State().Audit() {
		if a.Actor != "ann" || a.ActorAddress != "127.0.0.1" || a.Action != "put_app" {
			t.Errorf("audited %v", a)
		}
		return
	}
}

func TestUnexpectedErrorsAndPanicsOnlyShowAReference(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	token := h.user("ann", RoleOperator)
	h.beforeCompile = func() { panic("boom: inner workings") }
	status, body := h.curl(gwv1connect.ReleaseServicePushProcedure, token, "{}")
	if status != 500 || strings.Contains(body, "boom") || !strings.Contains(body, "internal error, reference ") {
		t.Errorf("got %d %s", status, body)
	}
	_, reference, _ := strings.Cut(body, "reference ")
	if !strings.Contains(h.log.String(), reference[:16]) || !strings.Contains(h.log.String(), "boom: inner workings") {
		t.Error("the log does not say what the reference is to")
	}
}

func TestTheTableOfErrors(t *testing.T) {
	for want, err := range map[connect.Code]error{
		connect.CodeUnavailable:        fmt.Errorf("save: %w", raftstore.ErrNotLeader),
		connect.CodeInvalidArgument:    fmt.Errorf("save: %w", raftstore.ErrTooLarge),
		connect.CodeCanceled:           context.Canceled,
		connect.CodeDeadlineExceeded:   fmt.Errorf("x: %w", context.DeadlineExceeded),
		connect.CodeInternal:           errors.New("surprise"),
		connect.CodeFailedPrecondition: &raftstore.Refused{Refusal: &gwv1.Refusal{Code: gwv1.RefusalCode_REFUSAL_CODE_CHANGED, Message: "m"}},
		connect.CodeNotFound:           &raftstore.Refused{Refusal: &gwv1.Refusal{Code: gwv1.RefusalCode_REFUSAL_CODE_NOT_FOUND, Message: "m"}},
		connect.CodePermissionDenied:   &raftstore.Refused{Refusal: &gwv1.Refusal{Code: gwv1.RefusalCode_REFUSAL_CODE_DENIED, Message: "m"}},
		connect.CodeUnauthenticated:    &Error{Reason: ReasonUnauthenticated, Message: "m"},
	} {
		e := errorOf(t.Context(), slog.New(slog.DiscardHandler), err)
		if e.Code() != want || detailOf(t, e).Reason == "" {
			t.Errorf("%v: got %v %q, want %v", err, e.Code(), detailOf(t, e).Reason, want)
		}
	}
	for _, c := range []struct {
		err    error
		reason string
	}{
		{raftstore.ErrNotLeader, ReasonNotLeader}, {raftstore.ErrNotProposed, ReasonNotProposed},
		{raftstore.ErrUnknownOutcome, ReasonUnknownOutcome}, {raftstore.ErrTooLarge, ReasonTooLarge},
		{resource.Errors{{Kind: "API", Message: "m"}}, ReasonInvalidResource}, {&resource.Error{Message: "m"}, ReasonInvalidResource},
	} {
		if got := detailOf(t, errorOf(t.Context(), slog.New(slog.DiscardHandler), c.err)).Reason; got != c.reason {
			t.Errorf("%v: reason %q, want %q", c.err, got, c.reason)
		}
	}
	for code := range gwv1.RefusalCode_name {
		if _, ok := refusals[gwv1.RefusalCode(code)]; !ok && code != 0 {
			t.Errorf("%v has no code", gwv1.RefusalCode(code))
		}
	}
	var h Hub
	if h.Error(t.Context(), nil) != nil {
		t.Error("no error became one")
	}
}

func TestAFullDiskIsSaidAndNotTriedElsewhere(t *testing.T) {
	h := newHarness(t)
	full := fmt.Errorf("save: %w: %w", raftstore.ErrNotProposed, raftstore.ErrDiskLow)
	a := newAttempt(httptest.NewRecorder(), h.store, true)
	ctx := context.WithValue(t.Context(), attemptKey{}, a)
	err := (&translator{h.hub.core}).end(ctx, connect.Spec{}, h.clock.now(), full)
	h.refused(err, connect.CodeResourceExhausted, ReasonDiskLow, "nothing was changed: make room there")
	if a.again {
		t.Error("it is tried again")
	}
}

func TestWhatMayHaveBeenDoneIsNeverSaidNotToBe(t *testing.T) {
	h := newHarness(t)
	for _, other := range []error{raftstore.ErrNotLeader, raftstore.ErrNotProposed, raftstore.ErrDiskLow, raftstore.ErrTooLarge, raftstore.ErrMembership} {
		a := newAttempt(httptest.NewRecorder(), h.store, true)
		ctx := context.WithValue(t.Context(), attemptKey{}, a)
		err := (&translator{h.hub.core}).end(ctx, connect.Spec{}, h.clock.now(), fmt.Errorf("restore: %w: %w", raftstore.ErrUnknownOutcome, other))
		h.refused(err, connect.CodeUnavailable, ReasonUnknownOutcome, "restore")
		if a.again {
			t.Errorf("with %v it is tried again", other)
		}
	}
}

func TestWakeMovesWithTheFleetAndWithTheState(t *testing.T) {
	h := newHarness(t)
	at, err := h.hub.Wake(t.Context(), 0)
	must(t, err)
	for name, change := range map[string]func(){
		"state": func() { h.apply(api("", "a", "/"+newID())) },
		"fleet": func() {
			h.fleet.Beat(identity.Edge{ID: "e", Namespace: "default"}, "a", &gwv1.HeartbeatRequest{}, certificateNone)
		},
	} {
		t.Run(name, func(t *testing.T) {
			woken := make(chan uint64)
			go func() {
				next, err := h.hub.Wake(t.Context(), at)
				if err != nil {
					t.Error(err)
				}
				woken <- next
			}()
			change()
			select {
			case next := <-woken:
				if next <= at {
					t.Errorf("woke at %d, after %d", next, at)
				}
				at = next
			case <-time.After(10 * time.Second):
				t.Fatal("was not woken")
			}
		})
		at, err = h.hub.Wake(t.Context(), 0)
		must(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.hub.Wake(ctx, at); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up returned %v", err)
	}
}
