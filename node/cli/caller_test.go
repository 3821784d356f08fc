package cli

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

func unavailable(t *testing.T, reason string) error {
	t.Helper()
	err := connect.NewError(connect.CodeUnavailable, errors.New(reason))
	detail, detailErr := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: reason})
	if detailErr != nil {
		t.Fatal(detailErr)
	}
	err.AddDetail(detail)
	return err
}

// attempts is what a call's attempts fail with in turn, the last for ever; nil is success.
type attempts struct {
	t      *testing.T
	errs   []error
	keys   []string
	at     []time.Duration
	start  time.Time
	caller *caller
	shown  strings.Builder
}

// call makes one call with the flags that procedure has.
func (a *attempts) call(ctx context.Context, procedure string, level connect.IdempotencyLevel) error {
	a.start = time.Now()
	a.caller = &caller{hub: "http://hub", context: &Context{Stderr: &a.shown, IsTerminal: func(any) bool { return true }}}
	call := a.caller.WrapUnary(func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		a.keys, a.at = append(a.keys, req.Header().Get("Idempotency-Key")), append(a.at, time.Since(a.start))
		err := a.errs[min(len(a.keys), len(a.errs))-1]
		return connect.NewResponse(new(gwv1.PushResponse)), err
	})
	_, err := call(ctx, &specified{connect.NewRequest(new(gwv1.PushRequest)), connect.Spec{Procedure: procedure, IdempotencyLevel: level}})
	return err
}

// specified is a request with a specification, which only a client makes otherwise.
type specified struct {
	*connect.Request[gwv1.PushRequest]
	spec connect.Spec
}

func (s *specified) Spec() connect.Spec { return s.spec }

func TestACallOutlastsAnElectionWithOneKey(t *testing.T) {
	notProposed, unknown, notLeader := unavailable(t, "not_proposed"), unavailable(t, "unknown_outcome"), unavailable(t, "not_leader")
	other := unavailable(t, "starting")
	refused := connect.NewError(connect.CodeNotFound, errors.New("no such thing"))
	const push = gwv1connect.ReleaseServicePushProcedure
	for name, test := range map[string]struct {
		procedure string
		errs      []error
		want      error // nil: it works
		calls     int   // 0: until patience is over
	}{
		"works at once":               {push, []error{nil}, nil, 1},
		"works in the end":            {push, []error{notProposed, notLeader, unknown, nil}, nil, 4},
		"never proposed":              {push, []error{notProposed}, notProposed, 0},
		"never known":                 {push, []error{unknown}, unknown, 0},
		"unknown stays unknown":       {push, []error{unknown, notProposed}, unknown, 0},
		"unknown, then no hub":        {push, []error{unknown, syscall.ECONNREFUSED}, unknown, 0},
		"unknown, then a hub again":   {push, []error{unknown, syscall.ECONNREFUSED, syscall.ECONNREFUSED, nil}, nil, 4},
		"no hub":                      {push, []error{syscall.ECONNREFUSED}, syscall.ECONNREFUSED, 1},
		"answer lost":                 {push, []error{io.ErrUnexpectedEOF, nil}, nil, 2},
		"answer lost, then no hub":    {push, []error{syscall.ECONNRESET, syscall.ECONNREFUSED}, errors.New("the connection broke before there was an answer"), 0},
		"unknown, then answered":      {push, []error{unknown, unavailable(t, "secret_already_delivered")}, errors.New("secret_already_delivered"), 2},
		"refused":                     {push, []error{refused}, refused, 1},
		"unavailable for another why": {push, []error{other}, other, 1},
		"handing over, once":          {gwv1connect.ClusterServiceTransferLeadershipProcedure, []error{unknown}, unknown, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &attempts{t: t, errs: test.errs}
				err := a.call(t.Context(), test.procedure, connect.IdempotencyUnknown)
				if test.want == nil && err != nil || test.want != nil && (err == nil || !strings.Contains(err.Error(), test.want.Error())) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if test.calls > 0 && len(a.keys) != test.calls || test.calls == 0 && (len(a.keys) < 5 || len(a.keys) > 20) {
					t.Errorf("%d calls, want %d (0: several)", len(a.keys), test.calls)
				}
				if slices.ContainsFunc(a.keys, func(key string) bool { return len(key) != 32 || key != a.keys[0] }) {
					t.Errorf("keys %q, want one", a.keys)
				}
				if last := a.at[len(a.at)-1]; last > defaultPatience || test.calls == 0 && last < defaultPatience-longestPause {
					t.Errorf("called at %v, want all within %v, and about as long", a.at, defaultPatience)
				}
				if got := strings.Count(a.shown.String(), "Trying again"); got != min(1, len(a.keys)-1) {
					t.Errorf("said %d times that it tries again:\n%s", got, a.shown.String())
				}
			})
		})
	}
}

func TestReadsAreRepeatedWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &attempts{t: t, errs: []error{unavailable(t, "not_proposed"), nil}}
		if err := a.call(t.Context(), gwv1connect.FleetServiceListEdgesProcedure, connect.IdempotencyNoSideEffects); err != nil || !slices.Equal(a.keys, []string{"", ""}) {
			t.Errorf("got %v, keys %q", err, a.keys)
		}
	})
}

func TestAnInterruptEndsTheRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		a := &attempts{t: t, errs: []error{unavailable(t, "not_proposed")}}
		err := a.call(ctx, gwv1connect.ReleaseServicePushProcedure, connect.IdempotencyUnknown)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(a.start) != 1500*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(a.start))
		}
	})
}

func TestAges(t *testing.T) {
	for text, want := range map[string]string{"0s": "0s", "1.5s": "1.5s", "0.25": "250ms", "90": "1m", "2h3m": "2h", "soon": "soon"} {
		if got := spokenAge(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	var shown strings.Builder
	k := &caller{context: &Context{Stderr: &shown}}
	k.tellAge(http.Header{"Gw-Age": {"1s"}})
	if shown.Len() > 0 {
		t.Errorf("said without being asked: %s", shown.String())
	}
}

func TestHubsAreFoundByTheBeginningOfTheirID(t *testing.T) {
	hubs := []*gwv1.HubStatus{{Id: "abcdef0123"}, {Id: "abcdef0199"}, {Id: "abcd"}, {Id: "ffff000000"}}
	for id, want := range map[string]string{"abcdef0123": "abcdef0123", "abcdef012": "abcdef0123", "abcd": "abcd", "ffff": "ffff000000",
		"abcde": "", "abc": "", "fff": "", "": "", "ffff0000000": "", "eeee": ""} {
		h, err := findHub(hubs, id)
		if h.GetId() != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", id, h.GetId(), err, want)
		}
	}
	for id, want := range map[string]string{"abcdef0123": "abcdef012", "ffff000000": "ffff0000", "abcd": "abcd", "": "", "not-there-at-all": "not-ther"} {
		if got := shortHub(hubs, id); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}
