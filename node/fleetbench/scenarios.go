package fleetbench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// enrol starts all edges and waits until the leader sees them connected and on their release.
func (b *bench) enrol(ctx context.Context) (err error) {
	began := time.Now()
	before, _ := b.usage(ctx) // a failure has been noted
	if b.fleet, err = startFleet(ctx, b); err != nil {
		return err
	}
	// Enrolments come one after the other, so patience is for each batch of them.
	limit := b.Patience + time.Duration(b.Edges)*20*time.Millisecond
	if err := b.fleet.following.wait(ctx, b.fleet, limit, "enrolled and connected"); err != nil {
		return err
	}
	b.report.took(Enrol, "all enrolled, certificates of their own, streams open", time.Since(began))
	if _, _, err := b.awaitRight(ctx); err != nil {
		return err
	}
	total := time.Since(began)
	b.report.took(Enrol, "all Connected and In sync at the leader", total)
	b.report.value(Enrol, "edges enrolled and connected per second", unitCount, float64(b.Edges)/total.Seconds())
	if after, err := b.usage(ctx); err == nil && before != nil {
		b.report.value(Enrol, "hubs' CPU per enrolment", unitMillis, millis(used(before, after))/float64(b.Edges))
	}
	return nil
}

// steady watches heartbeats for a while.
func (b *bench) steady(ctx context.Context) error {
	before, err := b.usage(ctx)
	wire, connections, counted := wireBytes(b.ports)
	began, beats := time.Now(), b.fleet.beats.Load()
	over := time.NewTimer(b.SteadyFor)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	took, sent := time.Since(began), float64(b.fleet.beats.Load()-beats)
	b.report.value(Steady, "heartbeats per second", unitCount, sent/took.Seconds())
	if counted {
		after, _, _ := wireBytes(b.ports)
		b.report.value(Steady, "connections per edge", unitCount, float64(connections)/float64(b.Edges))
		b.report.value(Steady, "bytes per edge and minute, both ways, TLS included", unitBytes, (after-wire)/float64(b.Edges)/took.Minutes())
	}
	if err != nil {
		return nil // noted at the start
	}
	after, err := b.usage(ctx)
	if err != nil {
		return err
	}
	cpu := used(before, after)
	if sent > 0 {
		b.report.value(Steady, "hubs' CPU per heartbeat, ticks and all else included", unitMicros, float64(cpu.Microseconds())/sent)
	}
	b.report.value(Steady, "hubs' CPU, of one core", unitPercent, 100*cpu.Seconds()/took.Seconds())
	for _, u := range after {
		b.report.value(Steady, "memory (RSS) of "+u.hub, unitBytes, u.rss)
	}
	if b.idle != nil {
		b.report.value(Steady, "memory (RSS) of the leader per connected edge", unitBytes, grown(b.idle, after)/float64(b.Edges))
	}
	return nil
}

// push edits one resource and pushes, several times.
func (b *bench) push(ctx context.Context) error {
	var loaded, reported []time.Duration
	var wire []float64
	spent := b.spending(ctx)
	for i := range b.Pushes {
		if err := b.edit(ctx, i%b.Resources, i+1); err != nil {
			return err
		}
		before, _, counted := wireBytes(b.ports)
		l, r, err := b.onePush(ctx)
		if err != nil {
			return err
		}
		loaded, reported = append(loaded, l...), append(reported, r...)
		if after, _, _ := wireBytes(b.ports); counted {
			wire = append(wire, (after-before)/float64(b.Edges))
		}
	}
	b.report.times(Push, "push called → an edge has loaded it", loaded)
	b.report.times(Push, "push called → the leader knows that an edge has", reported)
	spent(Push, "per edge and push", b.Pushes*b.Edges)
	b.report.spread(Push, "bytes per edge of one push, both ways, TLS and reports included", unitBytes, wire)
	return nil
}

// onePush pushes what was saved and returns when each edge had loaded it, and when the leader was seen to know.
func (b *bench) onePush(ctx context.Context) (loaded, reported []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.Patience)
	defer cancel()
	last := uint64(0)
	for _, e := range b.fleet.edges {
		_, number, _ := e.loaded()
		last = max(last, number)
	}
	t := b.fleet.awaitLoad(last)
	t.begin()
	began := time.Now()
	number, err := b.pushNow(ctx)
	if err != nil {
		return nil, nil, err
	}
	reported, err = b.followPush(ctx, number, began)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; of %d edges, %d were seen to load it, %s", err, b.Edges, len(reported), b.fleet.standing())
	}
	if err := t.wait(ctx, b.fleet, b.Patience, fmt.Sprintf("loaded push %d", number)); err != nil {
		return nil, nil, err
	}
	return t.samples(), reported, nil
}

// followPush returns when the leader was seen to know that another edge has loaded a push. A leader that is lost meanwhile
// has a successor, which goes on.
func (b *bench) followPush(ctx context.Context, number uint64, began time.Time) (reported []time.Duration, err error) {
	for again := true; again; {
		again = false
		progress, err := b.admin.releases.WatchPush(ctx, &gwv1.WatchPushRequest{Number: number})
		if err != nil {
			return reported, fmt.Errorf("watch push %d: %w", number, err)
		}
		for progress.Receive() {
			m := progress.Msg()
			for now := time.Since(began); len(reported) < int(m.Loaded); {
				reported = append(reported, now)
			}
			if m.Failed > 0 {
				progress.Close()
				return nil, fmt.Errorf("push %d: %d edges failed", number, m.Failed)
			}
		}
		if err := progress.Err(); connect.CodeOf(err) == connect.CodeUnavailable && ctx.Err() == nil {
			again = true
		} else if err != nil {
			return reported, fmt.Errorf("watch push %d: %w", number, err)
		}
		progress.Close()
	}
	return reported, nil
}

// echo is how long edges spread their reports of an access change over; the next revocation waits for them.
const echo = 1500 * time.Millisecond

// revoke ends tokens, one after the other.
func (b *bench) revoke(ctx context.Context) error {
	var reached, worst []time.Duration
	spent := b.spending(ctx)
	for i := range b.Revocations {
		t, err := b.oneRevocation(ctx)
		if err != nil {
			return err
		}
		reached = append(reached, t.samples()...)
		worst = append(worst, slices.Max(t.samples()))
		if i == b.Revocations-1 {
			break
		}
		quiet := time.NewTimer(min(echo, time.Duration(b.Edges)*10*time.Millisecond))
		select {
		case <-quiet.C:
		case <-ctx.Done():
			quiet.Stop()
			return ctx.Err()
		}
	}
	b.report.times(Revoke, "RevokeToken called → an edge refuses the token", reached)
	b.report.times(Revoke, "RevokeToken called → every edge does", worst)
	spent(Revoke, "per edge and revocation, its report included", b.Revocations*b.Edges)
	return nil
}

// oneRevocation ends a new token and returns when each edge heard of it.
func (b *bench) oneRevocation(ctx context.Context) (*tally, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Patience)
	defer cancel()
	answer, err := b.admin.access.CreateToken(ctx, &gwv1.CreateTokenRequest{App: app, Namespace: b.namespace})
	if err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	t := b.fleet.awaitRevocation(identity.HashCredential(answer.Credential))
	t.begin()
	if _, err := b.admin.access.RevokeToken(ctx, &gwv1.RevokeTokenRequest{Token: answer.Credential}); err != nil {
		return nil, fmt.Errorf("revoke a token: %w", err)
	}
	return t, t.wait(ctx, b.fleet, b.Patience, "heard of the revocation")
}
