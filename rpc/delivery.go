package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	// deliverFor is how long payloads of one batch are handed out before the rest is sent back, so that the answer
	// reaches the edge while it still waits.
	deliverFor = 20 * time.Second
	// maxAttempts is how often a payload may take its plugin down or past its deadline before it is a dead letter.
	maxAttempts = 3
	// maxChanged is how often payloads are delivered anew because what they were decided by has changed meanwhile.
	maxChanged = 3
)

// delivery brings payloads to hub plugins, one lane for each plugin.
type delivery struct {
	core *core

	mu    sync.Mutex
	lanes map[uint32]*lane // plugin → lane; one is there while somebody uses it or it remembers attempts
}

// lane is the payloads for one plugin. They are handed to it one at a time; those of several edges that wait at the same
// time share a command. Whoever has the turn works for all that wait.
type lane struct {
	*delivery
	plugin uint32
	turn   chan struct{} // capacity 1: holding its element is having the turn

	mu      sync.Mutex
	waiting []*job

	attempts map[markName]ordeal // by whoever has the turn
	users    int                 // guarded by delivery.mu
}

// ordeal is how often the next payload of a store took a plugin down or past its deadline.
type ordeal struct {
	sequence uint64
	tries    int
}

// job is the payloads of one batch for one plugin, in order, and what becomes of each.
type job struct {
	edge     caller
	payloads []*gwv1.PluginPayload
	outcomes []*gwv1.PayloadOutcome // nil: not decided; those that are not retries count only once they are committed
	until    time.Time
	halted   map[string]bool // stores whose payloads are not handed out any more, because one before them is to be retried
	done     chan struct{}   // closed when outcomes is whole
}

func newDelivery(k *core) *delivery { return &delivery{core: k, lanes: map[uint32]*lane{}} }

func (d *delivery) enter(plugin uint32) *lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[plugin]
	if l == nil {
		l = &lane{delivery: d, plugin: plugin, turn: make(chan struct{}, 1), attempts: map[markName]ordeal{}}
		l.turn <- struct{}{}
		d.lanes[plugin] = l
	}
	l.users++
	return l
}

func (d *delivery) leave(l *lane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.users--; l.users == 0 && len(l.attempts) == 0 {
		delete(d.lanes, l.plugin)
	}
}

// deliver blocks until every payload of the job has an outcome that is committed, or is to be sent again.
func (d *delivery) deliver(ctx context.Context, plugin uint32, j *job) {
	l := d.enter(plugin)
	defer d.leave(l)
	j.outcomes = make([]*gwv1.PayloadOutcome, len(j.payloads))
	j.halted, j.done = map[string]bool{}, make(chan struct{})
	l.mu.Lock()
	l.waiting = append(l.waiting, j)
	l.mu.Unlock()
	select {
	case <-j.done:
		return
	case <-l.turn:
	}
	defer func() { l.turn <- struct{}{} }()
	l.mu.Lock()
	jobs := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	if len(jobs) == 0 {
		<-j.done // another had the turn and took it
		return
	}
	// What one caller works for others must not end with its own call.
	ctx, cancel := d.core.whileLeading(context.WithoutCancel(ctx))
	defer cancel()
	l.run(ctx, jobs)
	for _, j := range jobs {
		close(j.done)
	}
}

// whileLeading returns a context that ends when this hub's duties as leader do.
func (k *core) whileLeading(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	leads, changed := k.tenure.get()
	if !leads {
		return ctx, cancel // the first command tells whether it does
	}
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// item is one payload of a job.
type item struct {
	*job
	at int
}

func (i item) payload() *gwv1.PluginPayload { return i.payloads[i.at] }

func (i item) mark() markName {
	p := i.payload()
	return markName{string(p.StoreId), p.PluginId}
}

func (i item) retry(reason string) {
	i.outcomes[i.at] = &gwv1.PayloadOutcome{Result: gwv1.PayloadResult_PAYLOAD_RESULT_RETRY, Reason: clip(reason, 1000)}
	i.halted[string(i.payload().StoreId)] = true
}

func (i item) decide(result gwv1.PayloadResult) {
	i.outcomes[i.at] = &gwv1.PayloadOutcome{Result: result}
}

// run hands out the payloads of all jobs and commits their outcomes.
func (l *lane) run(ctx context.Context, jobs []*job) {
	var items []item
	for _, j := range jobs {
		for at := range j.payloads {
			items = append(items, item{j, at})
		}
	}
	for changed := 0; len(items) > 0; {
		left, err := l.pass(ctx, items)
		var refused *raftstore.Refused
		switch {
		case err == nil:
			items, changed = left, 0
			continue
		case errors.As(err, &refused) && refused.Refusal.GetCode() == gwv1.RefusalCode_REFUSAL_CODE_CHANGED && changed < maxChanged:
			changed++
			items = left
			continue
		}
		for _, i := range left {
			i.retry("the hub could not commit it: " + err.Error())
		}
		return
	}
}

// pass hands out payloads until a commit is full, and commits. It returns those that are left to hand out; after an error
// these are all whose outcome was not committed.
func (l *lane) pass(ctx context.Context, items []item) ([]item, error) {
	st, err := l.core.read(ctx)
	if err != nil {
		return items, err
	}
	g := newStage(st, l.core.now())
	next := 0
	for ; next < len(items) && g.size < flushFrom; next++ {
		i := items[next]
		switch p := i.payload(); {
		case i.outcomes[i.at].GetResult() == gwv1.PayloadResult_PAYLOAD_RESULT_RETRY: // decided in a pass that has to be repeated
		case i.halted[string(p.StoreId)]:
			i.retry("a payload before it is to be sent again first")
		case p.Sequence <= g.settled(i.mark()):
			l.repeat(g, i)
		case l.core.now().After(i.until) || ctx.Err() != nil:
			i.retry("the hub is busy with what came before it")
		default:
			if alone := l.hand(ctx, g, i); alone {
				// Others are asked about it apart from this commit, which must not wait for them.
				if err := l.commit(ctx, g); err != nil {
					return items, err
				}
				l.handToOthers(ctx, i)
				return items[next+1:], nil
			}
		}
	}
	if err := l.commit(ctx, g); err != nil {
		return items, err
	}
	return items[next:], nil
}

func (l *lane) commit(ctx context.Context, g *stage) error {
	if len(g.marks)+len(g.dead) == 0 {
		return nil
	}
	ctx = WithPrincipal(ctx, Principal{User: "hub/" + l.core.store.NodeID()})
	_, err := l.core.propose(ctx, &gwv1.Command{Body: &gwv1.Command_SettlePayloads{SettlePayloads: g.command()}})
	return err
}

// hand gives a payload to its plugin. others: it doesn't want it, or there is none.
func (l *lane) hand(ctx context.Context, g *stage, i item) (others bool) {
	handled, err := l.accept(ctx, g, l.plugin, i)
	switch {
	case handled:
		l.settle(g, i, err)
	case ctx.Err() != nil: // its plugins end with its leadership
		i.retry("this hub no longer leads")
	case errors.Is(err, ErrPluginNotRunning):
		i.retry(fmt.Sprintf("hub plugin %d is not running", l.plugin))
	case errors.Is(err, ErrPluginCrashed), errors.Is(err, ErrPluginTooSlow):
		l.lost(g, i, l.plugin, err)
	default:
		return true
	}
	return false
}

// accept calls one receiver; what it wrote is part of the stage if it handled the payload.
func (l *lane) accept(ctx context.Context, g *stage, plugin uint32, i item) (handled bool, err error) {
	p, kv := i.payload(), g.begin(plugin)
	handled, err = l.core.plugins.Accept(ctx, plugin, Payload{
		Payload: p.Payload, EdgeID: i.edge.ID, EdgeNamespace: i.edge.Namespace, CorrelationID: p.CorrelationId,
		Metadata: p.Metadata, SentAt: time.Unix(0, p.SentAt), ReceivedAt: l.core.now(),
	}, kv)
	kv.close()
	if handled {
		kv.keep()
	}
	return handled, err
}

// settle stages that a payload was handled.
func (l *lane) settle(g *stage, i item, failed error) {
	m := g.move(i)
	m.Handled++
	if failed != nil {
		m.Errors++
		m.LastError = clip(failed.Error(), 500)
	}
	i.decide(gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED)
	delete(l.attempts, i.mark())
}

// move stages the next watermark.
func (g *stage) move(i item) *gwv1.SettledMark {
	n, p := i.mark(), i.payload()
	m := g.marks[n]
	if m == nil {
		m = &gwv1.SettledMark{StoreId: p.StoreId, PluginId: p.PluginId, EdgeId: i.edge.ID, Namespace: i.edge.Namespace, After: g.settled(n)}
		g.marks[n] = m
		g.size += 3 * perEntry
	}
	m.Sequence = p.Sequence
	return m
}

// lost counts that a payload took a plugin down or past its deadline; three times are enough.
func (l *lane) lost(g *stage, i item, plugin uint32, err error) {
	n, a := i.mark(), l.attempts[i.mark()]
	if a.sequence != i.payload().Sequence {
		a = ordeal{sequence: i.payload().Sequence}
	}
	a.tries++
	l.attempts[n] = a
	reason, what := "crashed", "went down"
	if errors.Is(err, ErrPluginTooSlow) {
		reason, what = "too_slow", "did not answer in time"
	}
	if a.tries < maxAttempts {
		i.retry(fmt.Sprintf("hub plugin %d %s while it worked on it, %d of %d times", plugin, what, a.tries, maxAttempts))
		return
	}
	l.bury(g, i, reason, fmt.Sprintf("hub plugin %d %s while it worked on it, %d times", plugin, what, a.tries))
}

// bury stages a dead letter.
func (l *lane) bury(g *stage, i item, reason, message string) {
	p := i.payload()
	m := g.move(i)
	m.DeadLetters++
	d := &gwv1.DeadLetterRecord{
		Id: deadLetterID(p), StoreId: p.StoreId, PluginId: p.PluginId, Sequence: p.Sequence, EdgeId: i.edge.ID, Namespace: i.edge.Namespace,
		CorrelationId: p.CorrelationId, Metadata: someMetadata(p.Metadata), Size: uint32(len(p.Payload)), Reason: reason, Message: message,
		SentAt: p.SentAt, State: state.DeadLetterHeld,
	}
	g.hold(d)
	i.isDeadLetter(d)
	delete(l.attempts, i.mark())
}

// repeat answers a payload that was settled before as it was answered then, since that answer may have been lost: of a dead
// letter the edge has the only bytes, which it deletes if it hears anything else. One that was redelivered or dropped since
// has no record any more, and is a repetition like any other.
func (l *lane) repeat(g *stage, i item) {
	d, ok := g.deadLetter(deadLetterID(i.payload()))
	if !ok {
		i.decide(gwv1.PayloadResult_PAYLOAD_RESULT_REPEATED)
		return
	}
	if d.State == state.DeadLetterGone { // the edge was given an order about it before it had heard that it is a dead letter
		d = proto.CloneOf(d)
		d.State, d.EdgeId, d.Namespace = state.DeadLetterHeld, i.edge.ID, i.edge.Namespace
		g.hold(d)
	}
	i.isDeadLetter(d)
}

func (i item) isDeadLetter(d *gwv1.DeadLetterRecord) {
	i.outcomes[i.at] = &gwv1.PayloadOutcome{Result: gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER, DeadLetterId: d.Id, Reason: d.Reason}
}

// hold stages the record of a dead letter.
func (g *stage) hold(d *gwv1.DeadLetterRecord) {
	g.dead = append(g.dead, d)
	g.size += 4 << 10 // more than it can take
}

// deadLetter returns a record as it will be.
func (g *stage) deadLetter(id string) (*gwv1.DeadLetterRecord, bool) {
	for _, d := range g.dead {
		if d.Id == id {
			return d, true
		}
	}
	return g.state.DeadLetter(id)
}

// deadLetterID follows from what names the payload, so that it is the same whoever tells of it.
func deadLetterID(p *gwv1.PluginPayload) string {
	b := binary.BigEndian.AppendUint32(slices.Clone(p.StoreId), p.PluginId)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, p.Sequence))
	return hex.EncodeToString(sum[:8])
}

// someMetadata is as much as a record has room for, by keys.
func someMetadata(m map[string]string) map[string]string {
	kept, room := map[string]string{}, 1<<10
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if n := len(k) + len(m[k]); n <= room {
			kept[strings.ToValidUTF8(k, "")], room = strings.ToValidUTF8(m[k], ""), room-n
		}
	}
	return kept
}

// handToOthers offers a payload that its own plugin doesn't want to the other receivers, in the order of their IDs, and
// commits the outcome.
func (l *lane) handToOthers(ctx context.Context, i item) {
	for range maxChanged {
		st, err := l.core.read(ctx)
		if err != nil {
			i.retry("the hub could not read its state: " + err.Error())
			return
		}
		g := newStage(st, l.core.now())
		l.offer(ctx, g, i)
		if i.outcomes[i.at].GetResult() == gwv1.PayloadResult_PAYLOAD_RESULT_RETRY {
			return
		}
		err = l.commit(ctx, g)
		var refused *raftstore.Refused
		switch {
		case err == nil:
			return
		case errors.As(err, &refused) && refused.Refusal.GetCode() == gwv1.RefusalCode_REFUSAL_CODE_CHANGED:
			continue
		}
		i.retry("the hub could not commit it: " + err.Error())
		return
	}
	i.retry("what the hub plugins keep changed while they worked on it")
}

func (l *lane) offer(ctx context.Context, g *stage, i item) {
	asked := 0
	for _, plugin := range l.core.plugins.Receivers() {
		if plugin == l.plugin {
			asked++
			continue
		}
		handled, err := l.accept(ctx, g, plugin, i)
		switch {
		case handled:
			l.settle(g, i, err)
			return
		case ctx.Err() != nil:
			i.retry("this hub no longer leads")
			return
		case errors.Is(err, ErrPluginCrashed), errors.Is(err, ErrPluginTooSlow):
			l.lost(g, i, plugin, err)
			return
		case errors.Is(err, ErrNoPlugin), errors.Is(err, ErrPluginNotRunning):
			continue
		}
		asked++
	}
	if asked == 0 {
		l.bury(g, i, "no_receiver", fmt.Sprintf("no hub plugin has the ID %d, and no other one takes payloads", l.plugin))
		return
	}
	l.bury(g, i, "not_handled", fmt.Sprintf("none of %d hub plugins wanted it", asked))
}
