package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/anishathalye/porcupine"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc"
	"gw/rpc/gwv1"
)

// outcome is what a client knows of its write.
type outcome int

const (
	unknown     outcome = iota // it may have happened, or may happen yet
	done                       // it was acknowledged
	refused                    // the resource was not as the client expected it
	notProposed                // it has not happened, and never will
)

// classify reads an outcome off an error. surprise is set for errors that no fault explains.
func classify(err error) (o outcome, surprise bool) {
	var broken *net.OpError
	switch reason := reasonOf(err); {
	case err == nil, reason == rpc.ReasonAlreadyDelivered:
		return done, false
	case reason == rpc.ReasonChanged:
		return refused, false
	case reason == rpc.ReasonNotProposed, reason == rpc.ReasonNotLeader, reason == rpc.ReasonRemoved, reason == rpc.ReasonDiskLow:
		return notProposed, false
	case reason == rpc.ReasonUnknownOutcome, reason == "deadline_exceeded", reason == "canceled":
		return unknown, false
	case reason != "":
		return unknown, true
	case errors.As(err, &broken) && broken.Op == "dial":
		return notProposed, false // nothing was sent
	}
	return unknown, false
}

// leaderHint is where an error says that the leader is.
func leaderHint(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	for _, d := range e.Details() {
		value, err := d.Value()
		if detail, ok := value.(*gwv1.ErrorDetail); ok && err == nil {
			return detail.LeaderUrl
		}
	}
	return ""
}

// save is a call that saves a value under a name, if it has the version; 0 is any.
func save(version uint64, name, value string) *gwv1.ApplyResourcesRequest {
	list := func(v ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: v})
	}
	upstream := &structpb.Struct{Fields: map[string]*structpb.Value{"url": structpb.NewStringValue("http://" + value + ".invalid")}}
	return &gwv1.ApplyResourcesRequest{
		Resources: []*gwv1.Resource{{
			Kind: "API", Metadata: &gwv1.ResourceMetadata{Name: name},
			Spec: &structpb.Struct{Fields: map[string]*structpb.Value{
				"paths":     list(structpb.NewStringValue("/" + name)),
				"upstreams": list(structpb.NewStructValue(upstream)),
			}},
		}},
		ExpectedVersions: []uint64{version},
	}
}

// saved is the value in a resource that save made.
func saved(r *gwv1.Resource) string {
	upstreams := r.GetSpec().GetFields()["upstreams"].GetListValue().GetValues()
	if len(upstreams) == 0 {
		return ""
	}
	url := upstreams[0].GetStructValue().GetFields()["url"].GetStringValue()
	return strings.TrimSuffix(strings.TrimPrefix(url, "http://"), ".invalid")
}

// load is clients that read and write through every hub, and what they saw.
type load struct {
	c     *cluster
	hubs  []*process
	label string // in every name it writes
	began time.Time

	stop    context.CancelFunc
	clients sync.WaitGroup
	calls   atomic.Int64

	mu        sync.Mutex
	ops       map[string][]porcupine.Operation // by register
	tokens    map[string]outcome               // by label
	acks      []time.Duration                  // when writes were acknowledged, since began
	outcomes  [4]int
	reads     int
	surprises []string
}

const (
	loadClients = 5
	// callTimeout is longer than a hub holds a call.
	callTimeout = 7 * time.Second
)

var loads atomic.Int64

// startLoad starts clients, which go on until end is called.
func (c *cluster) startLoad() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{
		c: c, hubs: slices.Clone(c.hubs), label: fmt.Sprintf("l%d", loads.Add(1)), began: time.Now(), stop: cancel,
		ops: map[string][]porcupine.Operation{}, tokens: map[string]outcome{},
	}
	for i := range loadClients {
		k := &client{load: l, id: i, hub: l.hubs[i%len(l.hubs)], stop: ctx, seen: map[string]seen{}}
		l.clients.Go(k.run)
	}
	c.t.Cleanup(l.end)
	return l
}

// end lets every client finish its call, and waits for them.
func (l *load) end() {
	l.stop()
	l.clients.Wait()
}

// now is the load's clock.
func (l *load) now() int64 { return int64(time.Since(l.began)) }

// client makes one call after another, mostly to one hub as long as that answers.
type client struct {
	load *load
	id   int
	n    int
	hub  *process
	stop context.Context // no call begins after it has ended
	seen map[string]seen // by register: what it knows is there
}

type seen struct {
	value   string
	version uint64
}

func (k *client) run() {
	for k.stop.Err() == nil {
		k.n++
		// A register is left after some time, so that its history stays short enough to be checked.
		name := fmt.Sprintf("%s-r%d-%d", k.load.label, k.load.calls.Add(1)/100, rand.IntN(3))
		switch n := rand.IntN(20); {
		case n < 8:
			k.get(name)
		case n < 19:
			k.write(name)
		default:
			k.createToken()
		}
		if rand.IntN(10) == 0 {
			k.elsewhere()
		}
		select { // so that a round of chaos is not all about CPU
		case <-time.After(time.Duration(rand.Int64N(int64(25 * time.Millisecond)))):
		case <-k.stop.Done():
		}
	}
}

func (k *client) elsewhere() { k.hub = k.load.hubs[rand.IntN(len(k.load.hubs))] }

// call makes a call with an idempotency key, or none if that is "".
func (k *client) call(key string, call func(ctx context.Context, h *process) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if key != "" {
		ctx = withHeader(ctx, "Idempotency-Key", key)
	}
	err := call(ctx, k.hub)
	if _, surprise := classify(err); surprise {
		k.load.mu.Lock()
		k.load.surprises = append(k.load.surprises, fmt.Sprintf("%s: %v (%s)", k.hub.name, err, reasonOf(err)))
		k.load.mu.Unlock()
	}
	return err
}

// insist makes a call until its outcome is known, at most for some time. Without a key it is not made again once it may
// have taken effect.
func (k *client) insist(key string, call func(ctx context.Context, h *process) error) outcome {
	tainted := false // an earlier attempt may have taken effect
	for tries := 0; tries < 20 && (tries == 0 || k.stop.Err() == nil); tries++ {
		switch o, _ := classify(k.call(key, call)); {
		case o == done:
			return done
		case o == refused && tainted:
			return unknown // perhaps because of the earlier attempt
		case o == refused:
			return refused
		case o == unknown && key == "":
			return unknown
		case o == unknown:
			tainted = true
		}
		k.elsewhere()
		time.Sleep(20 * time.Millisecond) // a client's pause; nothing relies on it
	}
	if tainted {
		return unknown
	}
	return notProposed
}

func (k *client) get(name string) {
	call := k.load.now()
	var answer *gwv1.GetResourceResponse
	err := k.call("", func(ctx context.Context, h *process) (err error) {
		answer, err = h.config.GetResource(ctx, &gwv1.GetResourceRequest{Kind: "API", Name: name})
		if connect.CodeOf(err) == connect.CodeNotFound {
			answer, err = &gwv1.GetResourceResponse{}, nil
		}
		return err
	})
	if err != nil {
		k.elsewhere()
		return
	}
	k.load.sawValue(k.id, k.hub, name, saved(answer.Resource), call, k.load.now())
	k.seen[name] = seen{saved(answer.Resource), answer.Resource.GetStatus().GetVersion()}
}

// sawValue records a read.
func (l *load) sawValue(client int, via *process, name, value string, call, back int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	l.ops[name] = append(l.ops[name], porcupine.Operation{
		ClientId: client, Input: registerInput{op: "get"}, Call: call, Output: registerOutput{outcome: done, value: value, via: via.name}, Return: back,
	})
}

// key is an idempotency key, for every other write.
func (k *client) key() string {
	if rand.IntN(2) == 0 {
		return ""
	}
	return fmt.Sprintf("%s-%d-%d", k.load.label, k.id, k.n)
}

func (k *client) write(name string) {
	in := registerInput{op: "put", value: fmt.Sprintf("v%d-%d", k.id, k.n)}
	var version uint64
	if was := k.seen[name]; was.version > 0 && rand.IntN(2) == 0 {
		in.op, in.expect, version = "cas", was.value, was.version
	}
	delete(k.seen, name)
	call, key := k.load.now(), k.key()
	o := k.insist(key, func(ctx context.Context, h *process) error {
		answer, err := h.config.ApplyResources(ctx, save(version, name, in.value))
		if err == nil && len(answer.Outcomes) == 1 && answer.Outcomes[0].Version > 0 {
			k.seen[name] = seen{in.value, answer.Outcomes[0].Version}
		}
		return err
	})
	l := k.load
	op := porcupine.Operation{ClientId: k.id, Input: in, Call: call, Output: registerOutput{outcome: o, via: k.hub.name}, Return: l.now()}
	if o == unknown {
		op.Return = math.MaxInt64
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes[o]++
	if o == done {
		l.acks = append(l.acks, time.Since(l.began))
	}
	l.ops[name] = append(l.ops[name], op)
}

// createToken adds one to a set that only grows.
func (k *client) createToken() {
	label, key := fmt.Sprintf("%s-%d-%d", k.load.label, k.id, k.n), k.key()
	o := k.insist(key, func(ctx context.Context, h *process) error {
		_, err := h.access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{Labels: map[string]string{"load": label}})
		return err
	})
	k.load.mu.Lock()
	defer k.load.mu.Unlock()
	k.load.outcomes[o]++
	k.load.tokens[label] = o
}

// accepted is how many writes were acknowledged so far.
func (l *load) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// leastCalls is how many writes and how many reads a history has to have.
const leastCalls = 20

// enough is nil once the load has done so much. Of its calls each is a read or a write by chance.
func (l *load) enough() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acks) < leastCalls || l.reads < leastCalls {
		return fmt.Errorf("%d writes, %d reads", len(l.acks), l.reads)
	}
	return nil
}

// awaitAccepted waits until so many more writes are acknowledged.
func (l *load) awaitAccepted(more int, limit time.Duration) time.Duration {
	l.c.t.Helper()
	want := l.accepted() + more
	return l.c.await(limit, fmt.Sprintf("%d more writes are accepted", more), func() error {
		if n := l.accepted(); n < want {
			return fmt.Errorf("%d of %d are", n, want)
		}
		return nil
	})
}

// longestGap is the longest time without an acknowledgement that ended after since.
func (l *load) longestGap(since time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	acks := slices.Sorted(slices.Values(l.acks))
	longest, last := time.Duration(0), time.Duration(0)
	for _, at := range acks {
		if at > since.Sub(l.began) {
			longest = max(longest, at-last)
		}
		last = at
	}
	return longest
}

// judge ends the load and checks what its clients saw: every register is linearizable, reads of it through every hub
// now included; no acknowledged token is lost and none is there that was not proposed; all hubs end up with the same
// state. The cluster is to be whole.
func (l *load) judge() {
	l.c.t.Helper()
	l.c.await(healed, "the load has done enough to prove something", l.enough)
	l.end()
	for _, h := range l.c.up() {
		took := l.c.awaitWrite(h, healed)
		if took > time.Second {
			l.c.t.Logf("%s accepted a write after %v", h.name, took.Round(time.Millisecond))
		}
	}
	for _, h := range l.c.up() {
		l.readAll(h, nil)
	}
	l.judgeTokens()
	l.judgeRegisters()
	l.c.awaitSame(healed)
}

// readAll puts a read of every register into the history: now, or in the given time.
func (l *load) readAll(h *process, when *interval) {
	l.c.t.Helper()
	for name := range l.names() {
		call := l.now()
		ctx, cancel := context.WithTimeout(l.c.t.Context(), callTimeout)
		answer, err := h.config.GetResource(ctx, &gwv1.GetResourceRequest{Kind: "API", Name: name})
		cancel()
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			l.c.t.Fatalf("read %s through %s: %v", name, h.name, err)
		}
		back := l.now()
		if when != nil {
			call, back = when.from, when.to
		}
		l.sawValue(loadClients, h, name, saved(answer.GetResource()), call, back)
	}
}

// interval is between two times of a load's clock.
type interval struct{ from, to int64 }

func (l *load) names() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[string]bool{}
	for name := range l.ops {
		names[name] = true
	}
	return names
}

func (l *load) judgeTokens() {
	l.c.t.Helper()
	ctx, cancel := context.WithTimeout(l.c.t.Context(), callTimeout)
	defer cancel()
	answer, err := l.c.up()[0].access.ListJoinTokens(ctx, &gwv1.ListJoinTokensRequest{})
	if err != nil {
		l.c.t.Fatal(err)
	}
	there := map[string]int{}
	for _, token := range answer.JoinTokens {
		there[token.Labels["load"]]++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for label, o := range l.tokens {
		switch n := there[label]; {
		case o == done && n == 0:
			l.c.t.Errorf("join token %s was acknowledged and is lost", label)
		case o == notProposed && n > 0:
			l.c.t.Errorf("join token %s was not proposed and is there", label)
		case n > 1:
			l.c.t.Errorf("join token %s was made %d times", label, n)
		}
	}
}

// judgeRegisters checks every register's history.
func (l *load) judgeRegisters() {
	l.c.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := 0
	for name, ops := range l.ops {
		calls += len(ops)
		switch porcupine.CheckOperationsTimeout(registerModel, ops, 20*time.Second) {
		case porcupine.Illegal:
			l.c.t.Errorf("%s is not linearizable:\n%s", name, describeHistory(ops))
		case porcupine.Unknown:
			l.c.t.Errorf("%s: a history of %d calls took too long to check", name, len(ops))
		}
	}
	for _, s := range l.surprises {
		l.c.t.Errorf("no fault explains this answer: %s", s)
	}
	l.c.t.Logf("%d calls checked: %d reads; of writes %d acknowledged, %d refused, %d not proposed, %d unknown",
		calls, l.reads, l.outcomes[done], l.outcomes[refused], l.outcomes[notProposed], l.outcomes[unknown])
	if l.outcomes[done] < leastCalls || l.reads < leastCalls {
		l.c.t.Error("the load did too little to prove anything")
	}
}

func describeHistory(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(min(1, max(-1, a.Call-b.Call))) })
	var b strings.Builder
	for _, op := range ops {
		back := "never"
		if op.Return != math.MaxInt64 {
			back = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&b, "  %v to %s, client %d: %s\n", time.Duration(op.Call), back, op.ClientId, registerModel.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}

type registerInput struct {
	op            string // get, put or cas
	value, expect string
}

type registerOutput struct {
	outcome outcome
	value   string // of get; "": nothing is there
	via     string // the hub that gave the outcome
}

// registerModel is one resource: its value. A write that is unknown has no end, so that it may come after everything
// else, where it is no harm: that is "it never happened".
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(s, input, output any) (bool, any) {
		now, in, out := s.(string), input.(registerInput), output.(registerOutput)
		holds := in.op != "cas" || now == in.expect
		switch {
		case in.op == "get":
			return out.value == now, now
		case out.outcome == notProposed:
			return true, now
		case out.outcome == refused:
			return !holds, now
		case holds:
			return true, in.value
		}
		return out.outcome == unknown, now
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(registerInput), output.(registerOutput)
		if in.op == "get" {
			return fmt.Sprintf("%s: get %q", out.via, out.value)
		}
		how := []string{"unknown", "acknowledged", "refused", "not proposed"}[out.outcome]
		return fmt.Sprintf("%s: %s: %s", out.via, strings.TrimSpace(fmt.Sprintf("%s %q %s", in.op, in.value, in.expect)), how)
	},
}

// The checker can tell a lost write, a stale read and a phantom from a clean history.
func TestHistoriesThatAreWrongAreCaught(t *testing.T) {
	put := func(value string, o outcome, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: registerInput{op: "put", value: value}, Output: registerOutput{outcome: o}, Call: call, Return: back}
	}
	get := func(value string, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: registerInput{op: "get"}, Output: registerOutput{outcome: done, value: value}, Call: call, Return: back}
	}
	for name, c := range map[string]struct {
		ops  []porcupine.Operation
		fine bool
	}{
		"clean":                 {[]porcupine.Operation{put("a", done, 1, 2), get("a", 3, 4)}, true},
		"unknown that happened": {[]porcupine.Operation{put("a", unknown, 1, math.MaxInt64), get("a", 3, 4)}, true},
		"unknown that did not":  {[]porcupine.Operation{put("a", unknown, 1, math.MaxInt64), get("", 3, 4)}, true},
		"lost":                  {[]porcupine.Operation{put("a", done, 1, 2), get("", 3, 4)}, false},
		"stale":                 {[]porcupine.Operation{put("a", done, 1, 2), put("b", done, 3, 4), get("a", 5, 6)}, false},
		"phantom":               {[]porcupine.Operation{put("a", notProposed, 1, 2), get("a", 3, 4)}, false},
	} {
		if got := porcupine.CheckOperations(registerModel, c.ops); got != c.fine {
			t.Errorf("%s: linearizable is %v", name, got)
		}
	}
}
