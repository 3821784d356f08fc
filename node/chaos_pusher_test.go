package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/resource"
)

// content is what one release holds, as far as answers can tell. Every namespace has an API "mark", which says so in a
// header of every answer, sometimes one called "extra", and that called "shared" from global.
type content struct {
	mark, shared string
	extra        string // "": there is none
}

// released is one release of a namespace.
type released struct {
	number uint64
	bad    bool // no edge can load it
	content
}

// pusher saves and pushes one change after another, through any hub, and remembers what each release holds. Only it
// makes releases.
type pusher struct {
	c          *cluster
	hubs       []*process
	namespaces []string
	upstream   string // URL

	steps  sync.Mutex // held during a step: who holds it knows that nothing is saved or pushed meanwhile
	random *rand.Rand
	n      int
	saved  map[string]content // by namespace

	avoid    string // a namespace that nothing can be pushed to; "" is none
	patience int    // for so many steps

	mu       sync.Mutex // guards the rest
	releases map[string][]released
	findings []string
	note     func(format string, args ...any) // into the timeline
}

const (
	markHeader   = "Gw-Test-Mark"
	extraHeader  = "Gw-Test-Extra"
	sharedHeader = "Gw-Test-Shared"
)

func newPusher(c *cluster, seed uint64, upstream string, note func(string, ...any), namespaces ...string) *pusher {
	return &pusher{
		c: c, hubs: slices.Clone(c.hubs), namespaces: namespaces, upstream: upstream, random: rand.New(rand.NewPCG(seed, 1)),
		saved: map[string]content{}, releases: map[string][]released{}, note: note,
	}
}

// run makes steps until stop ends, and finishes the last.
func (p *pusher) run(stop context.Context) {
	for stop.Err() == nil {
		p.step()
		select {
		case <-time.After(time.Duration(100+p.random.IntN(300)) * time.Millisecond): // a person's pause; nothing relies on it
		case <-stop.Done():
		}
	}
}

// step makes one release in one namespace or in all, or saves what is not to be released.
func (p *pusher) step() {
	p.steps.Lock()
	defer p.steps.Unlock()
	namespace := p.namespaces[p.random.IntN(len(p.namespaces))]
	if p.avoid != "" {
		if p.patience--; p.patience <= 0 {
			p.repair()
		} else if namespace == p.avoid {
			return
		}
	}
	switch n := p.random.IntN(10); {
	case n < 5:
		p.save(p.random.IntN(3) == 0, false, namespace)
		p.push(namespace)
	case n < 7 && p.avoid == "":
		p.save(p.random.IntN(3) == 0, true, p.namespaces...)
		p.push()
	case n < 8:
		p.save(false, false, namespace)
		p.note("%s: %s is saved and not pushed", namespace, p.saved[namespace].mark)
	default:
		p.rollback(namespace)
	}
}

// save gives namespaces a new mark, adds or removes the extra API, and changes what is shared.
func (p *pusher) save(toggle, shared bool, namespaces ...string) {
	p.n++
	var docs, gone []string
	global := fmt.Sprintf("global/%d", p.n)
	if shared {
		docs = append(docs, p.api("global", "shared", sharedHeader, global))
		for _, namespace := range p.namespaces {
			c := p.saved[namespace]
			c.shared = global
			p.saved[namespace] = c
		}
	}
	for _, namespace := range namespaces {
		c := p.saved[namespace]
		c.mark = fmt.Sprintf("%s/%d", namespace, p.n)
		docs = append(docs, p.api(namespace, "mark", markHeader, c.mark))
		switch {
		case toggle && c.extra != "":
			c.extra, gone = "", append(gone, namespace)
		case toggle:
			c.extra = c.mark
			docs = append(docs, p.api(namespace, "extra", extraHeader, c.extra))
		}
		p.saved[namespace] = c
	}
	request := &gwv1.ApplyResourcesRequest{Resources: resources(docs)}
	p.insist("save", func(ctx context.Context, h *process) error {
		_, err := h.config.ApplyResources(ctx, request)
		return err
	})
	for _, namespace := range gone {
		p.delete(namespace, "extra")
	}
}

func (p *pusher) delete(namespace, api string) {
	request := &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Namespace: namespace, Name: api}}}
	p.insist("delete", func(ctx context.Context, h *process) error {
		_, err := h.config.DeleteResources(ctx, request)
		return err
	})
}

func (p *pusher) api(namespace, name, header, value string) string {
	return fmt.Sprintf(`
kind: API
metadata: {name: %s, namespace: %s}
spec: {paths: [/%s], upstreams: [{url: %q}], response_headers: {set: {%s: %q}}}
`, name, namespace, name, p.upstream, header, value)
}

// resources reads documents.
func resources(docs []string) (list []*gwv1.Resource) {
	parsed, err := resource.Parse("test.yaml", []byte(strings.Join(docs, "---")))
	if err != nil {
		panic(err) // the test's own
	}
	for _, d := range parsed {
		list = append(list, d.Proto())
	}
	return list
}

// push releases what is saved, in a namespace or in all.
func (p *pusher) push(namespaces ...string) {
	request := &gwv1.PushRequest{Scope: &gwv1.Scope{Namespaces: namespaces}, ConfirmRemoval: true}
	var answer *gwv1.PushResponse
	p.insist("push", func(ctx context.Context, h *process) (err error) {
		answer, err = h.releases().Push(ctx, request)
		return err
	})
	for _, pushed := range answer.GetNamespaces() {
		if pushed.Released && slices.Contains(p.namespaces, pushed.Namespace) {
			p.made(pushed.Namespace, released{number: pushed.Release, content: p.saved[pushed.Namespace]})
		}
	}
}

// rollback releases once more what a namespace had before.
func (p *pusher) rollback(namespace string) {
	p.mu.Lock()
	list := p.releases[namespace]
	p.mu.Unlock()
	if len(list) < 2 || list[len(list)-2].bad {
		return
	}
	request := &gwv1.RollbackRequest{Scope: &gwv1.Scope{Namespaces: []string{namespace}}, ConfirmRemoval: true}
	var answer *gwv1.PushResponse
	p.insist("rollback", func(ctx context.Context, h *process) (err error) {
		answer, err = h.releases().Rollback(ctx, request)
		return err
	})
	for _, pushed := range answer.GetNamespaces() {
		if pushed.Released {
			p.made(namespace, released{number: pushed.Release, content: list[len(list)-2].content})
		}
	}
}

func (p *pusher) made(namespace string, r released) {
	p.mu.Lock()
	p.releases[namespace] = append(p.releases[namespace], r)
	p.mu.Unlock()
	p.note("%s: release %d is %s, %s, extra %q", namespace, r.number, r.mark, r.shared, r.extra)
}

func (h *process) releases() gwv1connect.ReleaseServiceClient {
	return gwv1connect.NewReleaseServiceClient(h.c.http, h.admin)
}

// insist makes a call until it was acknowledged. Whatever becomes of one attempt, the idempotency key keeps it from
// being done twice.
func (p *pusher) insist(what string, call func(ctx context.Context, h *process) error) {
	key, began := fmt.Sprintf("%s-%d", what, p.random.Int64()), time.Now()
	for try := p.random.IntN(len(p.hubs)); ; try++ {
		h := p.hubs[try%len(p.hubs)]
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		err := call(withHeader(ctx, "Idempotency-Key", key), h)
		cancel()
		o, surprise := classify(err)
		switch {
		case o == done:
			return
		case surprise, o == refused, time.Since(began) > time.Minute:
			p.mu.Lock()
			p.findings = append(p.findings, fmt.Sprintf("%s through %s, for %v: %v", what, h.name, time.Since(began), err))
			p.mu.Unlock()
			return
		}
		time.Sleep(20 * time.Millisecond) // a client's pause; nothing relies on it
	}
}

// newest is the release that edges of a namespace are to run.
func (p *pusher) newest(namespace string) released {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.releases[namespace]
	if len(list) == 0 {
		return released{}
	}
	return list[len(list)-1]
}
