package node

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// request is one request to an edge, and what came back.
type request struct {
	path       string
	credential *credential // nil: the one that is never revoked
	sent, got  time.Duration
	status     int    // 0: there was no answer
	value      string // the header by which a release answers
	failure    string
}

func (r request) String() string {
	with := "the steady token"
	if r.credential != nil {
		with = "token " + r.credential.id
	}
	return fmt.Sprintf("%v to %v: %s with %s: %d %s%s", r.sent.Round(time.Millisecond), r.got.Round(time.Millisecond), r.path, with, r.status, r.value, r.failure)
}

// look is what an edge said of itself.
type look struct {
	sent, got time.Duration
	following bool
}

// caller calls one edge, one request after the other, and remembers everything.
type caller struct {
	edge    *edgeProcess
	steady  string // a token that is never revoked
	revoker *revoker
	now     func() time.Duration
	random  *rand.Rand
	client  *http.Client

	turn sync.Mutex // held during a request: the next begins when it has ended, so that their order says something

	mu    sync.Mutex // guards the rest
	asked []request
	looks []look
}

// callerTimeout is longer than any fault lasts that leaves an edge alive and silent.
const callerTimeout = 20 * time.Second

func newCaller(e *edgeProcess, seed uint64, steady string, v *revoker, now func() time.Duration) *caller {
	transport := &http.Transport{MaxIdleConnsPerHost: 2}
	e.t.Cleanup(transport.CloseIdleConnections)
	return &caller{
		edge: e, steady: steady, revoker: v, now: now, random: rand.New(rand.NewPCG(seed, 3)),
		client: &http.Client{Transport: transport, Timeout: callerTimeout},
	}
}

// run calls until stop ends, and finishes the last request.
func (k *caller) run(stop context.Context) {
	for stop.Err() == nil {
		k.look()
		k.ask("mark", nil)
		k.ask([]string{"extra", "shared"}[k.random.IntN(2)], nil)
		live, revoked := k.revoker.some(k.random)
		if live != nil && k.random.IntN(3) > 0 {
			k.ask("mark", live)
		}
		if revoked != nil {
			k.ask("mark", revoked)
		}
		select {
		case <-time.After(time.Duration(50+k.random.IntN(100)) * time.Millisecond): // so that the fleet is not all about CPU
		case <-stop.Done():
		}
	}
}

var headerOf = map[string]string{"mark": markHeader, "extra": extraHeader, "shared": sharedHeader}

// ask makes a request, remembers it, and returns it.
func (k *caller) ask(path string, with *credential) request {
	token := k.steady
	if with != nil {
		token = with.secret
	}
	k.turn.Lock()
	defer k.turn.Unlock()
	r := request{path: path, credential: with, sent: k.now()}
	q, err := http.NewRequest(http.MethodGet, k.edge.callers+"/"+path, nil)
	if err != nil {
		panic(err) // the test's own
	}
	q.Header.Set("Authorization", "Bearer "+token)
	answer, err := k.client.Do(q)
	if err == nil {
		r.status, r.value = answer.StatusCode, answer.Header.Get(headerOf[path])
		if _, err = io.Copy(io.Discard, answer.Body); err != nil {
			r.status = 0
		}
		answer.Body.Close()
	}
	r.got = k.now()
	if err != nil {
		r.failure = err.Error()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, r)
	return r
}

// look asks the edge whether it follows a hub.
func (k *caller) look() bool {
	l := look{sent: k.now()}
	ctx, cancel := context.WithTimeout(context.Background(), callerTimeout)
	defer cancel()
	following, err := k.edge.following(ctx, k.client)
	l.got, l.following = k.now(), following && err == nil
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looks = append(k.looks, l)
	return l.following
}
