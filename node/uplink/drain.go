package uplink

import (
	"context"
	"fmt"
	"maps"
	"time"

	"gw/rpc/gwv1"
)

// Spool is what plugins of this edge have sent and no hub has settled yet. Its methods block on the disk.
type Spool interface {
	// Batch returns payloads that fit into one call, without those of plugins that skip reports, and what takes the
	// outcome of each.
	Batch(ctx context.Context, skip func(plugin uint32) bool) ([]*gwv1.PluginPayload, func([]*gwv1.PayloadOutcome) error, error)
	// Full receives when so many payloads wait that they are sent at once.
	Full() <-chan struct{}
	// Expire drops what is too old.
	Expire() (dropped int, err error)
	// Marks is how far payloads are numbered. Compare takes what the hub has settled of it, and reports whether the
	// payloads are named anew because the hub has settled more.
	Marks() ([]*gwv1.PluginMark, error)
	Compare(settled []*gwv1.PluginMark) (renewed bool, err error)
	// Order does what the hub orders about dead letters. Answers tells what was done until Answered has forgotten it.
	Order([]*gwv1.DeadLetterOrder) error
	Answers() ([]*gwv1.DeadLetterAnswer, error)
	Answered([]*gwv1.DeadLetterAnswer) error
	// Halt notes why nothing of a plugin is settled; "": it is again.
	Halt(plugin uint32, why string)
	// Totals is what waits, and how many dead letters are kept.
	Totals() (payloads, bytes, deadLetters int64)
	// Queues is what each plugin has in the spool.
	Queues() []*gwv1.PluginQueue
}

// expireEvery is how often the spool is looked through for what is too old.
const expireEvery = time.Minute

// askEvery is how often a hub is asked for orders about dead letters if nothing else is brought to it and no heartbeat goes.
const askEvery = time.Minute

// drainer brings payloads to the hub. It is used by one goroutine.
type drainer struct {
	*Uplink
	spool Spool

	halted   map[uint32]*halt // plugin → why its payloads are not sent now
	failed   int              // calls in a row
	again    time.Time        // not before, after a call that failed; zero: at once
	expired  time.Time        // when the spool was last looked through
	compared uint64           // the stream on which marks were compared
	ask      bool             // a hub was heard since the last answer, and may have orders
	asked    time.Time        // when the last answer came, which brings orders
}

// halt is a plugin whose payloads the hub doesn't settle.
type halt struct {
	failed int
	until  time.Time
}

// drain sends what is in the spool with every heartbeat, when it fills, and until it is empty.
func (u *Uplink) drain(ctx context.Context) error {
	d := &drainer{Uplink: u, spool: u.c.Spool, halted: map[uint32]*halt{}}
	for {
		wait := expireEvery
		if next := d.next(); !next.IsZero() && u.isFollowing() {
			wait = max(0, min(wait, time.Until(next)))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		case <-u.drainNow:
			d.ask = true
		case <-d.spool.Full():
		}
		t.Stop()
		d.expire()
		if !u.isFollowing() || time.Now().Before(d.again) {
			continue
		}
		if err := d.round(ctx); err != nil && ctx.Err() == nil {
			d.failed++
			d.again = time.Now().Add(u.pace.retry.delay(d.failed, random()))
			u.log.Warn("payloads of plugins could not be brought to the hub", "error", err, "reason", reasonOf(err), "retry_in", time.Until(d.again).Round(time.Millisecond))
		}
	}
}

// next is when something that failed is tried again; zero: nothing is to be.
func (d *drainer) next() (at time.Time) {
	at = d.again
	for _, h := range d.halted {
		if at.IsZero() || h.until.Before(at) {
			at = h.until
		}
	}
	if at.Before(d.again) {
		at = d.again
	}
	return at
}

func (d *drainer) expire() {
	if time.Since(d.expired) < expireEvery && !d.expired.IsZero() {
		return
	}
	d.expired = time.Now()
	n, err := d.spool.Expire()
	if n > 0 {
		d.log.Error("payloads were dropped because no hub has settled them for a day", "payloads", n)
	}
	if err != nil {
		d.log.Error("the spool could not be looked through for old payloads", "error", err)
	}
}

// round sends batches until nothing is left that can be sent.
func (d *drainer) round(ctx context.Context) error {
	d.again = time.Time{}
	if err := d.compare(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		now := time.Now()
		payloads, settle, err := d.spool.Batch(ctx, func(plugin uint32) bool { return d.waits(plugin, now) })
		if err != nil {
			return err
		}
		answers, err := d.spool.Answers()
		if err != nil {
			return err
		}
		if len(payloads)+len(answers) == 0 && !d.asks(now) {
			d.ask = false
			d.forget(now)
			return nil
		}
		answer, err := d.send(ctx, &gwv1.SendPluginControlBatchRequest{Payloads: payloads, Answers: answers})
		if err != nil {
			return err
		}
		if len(answer.Outcomes) != len(payloads) {
			return fmt.Errorf("the hub told %d outcomes of %d payloads", len(answer.Outcomes), len(payloads))
		}
		if err := settle(answer.Outcomes); err != nil {
			return err
		}
		if err := d.spool.Answered(answers); err != nil {
			return err
		}
		if len(answer.Orders) > 0 {
			if err := d.spool.Order(answer.Orders); err != nil {
				return err
			}
		}
		d.failed, d.ask, d.asked = 0, false, now
		d.judge(payloads, answer.Outcomes)
	}
	return nil
}

// asks reports whether the hub is asked for orders about dead letters, which it can tell with an answer only, though there is
// nothing to bring. Not whenever the spool is looked through: while a halted plugin has much in it, each Send wakes drain.
func (d *drainer) asks(now time.Time) bool {
	_, _, letters := d.spool.Totals()
	return letters > 0 && (d.ask || now.Sub(d.asked) >= askEvery)
}

// forget ends the halts of plugins that have nothing to be tried again any more: nothing was found when they were not
// waiting, as of now.
func (d *drainer) forget(now time.Time) {
	maps.DeleteFunc(d.halted, func(plugin uint32, _ *halt) bool { return !d.waits(plugin, now) })
}

// compare tells the hub once per stream how far payloads are numbered.
func (d *drainer) compare(ctx context.Context) error {
	d.mu.Lock()
	stream := d.streams
	d.mu.Unlock()
	if d.compared == stream {
		return nil
	}
	marks, err := d.spool.Marks()
	if err != nil {
		return err
	}
	for len(marks) > 0 {
		part := marks[:min(len(marks), 1000)]
		marks = marks[len(part):]
		answer, err := d.send(ctx, &gwv1.SendPluginControlBatchRequest{Marks: part})
		if err != nil {
			return err
		}
		renewed, err := d.spool.Compare(answer.Marks)
		if err != nil {
			return err
		}
		if renewed {
			break // all were told under the old name
		}
	}
	d.compared = stream
	return nil
}

func (d *drainer) send(ctx context.Context, r *gwv1.SendPluginControlBatchRequest) (*gwv1.SendPluginControlBatchResponse, error) {
	client, err := d.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.pace.drain)
	defer cancel()
	answer, err := client.SendPluginControlBatch(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("send %d payloads: %w", len(r.Payloads), err)
	}
	return answer, nil
}

// waits reports whether a plugin's payloads wait for another try.
func (d *drainer) waits(plugin uint32, now time.Time) bool {
	h := d.halted[plugin]
	return h != nil && now.Before(h.until)
}

// judge halts the plugins of which nothing was settled, each for itself.
func (d *drainer) judge(payloads []*gwv1.PluginPayload, outcomes []*gwv1.PayloadOutcome) {
	settled := map[uint32]bool{}
	why := map[uint32]string{}
	for i, p := range payloads {
		switch outcomes[i].GetResult() {
		case gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED, gwv1.PayloadResult_PAYLOAD_RESULT_REPEATED, gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER:
			settled[p.PluginId] = true
		default: // what a later version may say is not settled either
			if _, ok := why[p.PluginId]; !ok {
				why[p.PluginId] = outcomes[i].GetReason()
			}
		}
	}
	for plugin := range settled {
		if d.halted[plugin] != nil {
			d.log.Info("payloads are settled again", "plugin", plugin)
			delete(d.halted, plugin)
			wake(d.beatNow)
		}
		d.spool.Halt(plugin, "")
	}
	for plugin, reason := range why {
		if settled[plugin] {
			continue
		}
		h := d.halted[plugin]
		if h == nil {
			h = &halt{}
			d.halted[plugin] = h
			defer wake(d.beatNow) // so that people see it soon
			d.log.Warn("payloads are not settled, and are tried again", "plugin", plugin, "reason", reason)
		}
		h.failed++
		h.until = time.Now().Add(d.pace.retry.delay(h.failed, random()))
		d.spool.Halt(plugin, clip(reason, 1000))
	}
}
