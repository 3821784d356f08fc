package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

// fetch brings the serving table to the newest target, and the secrets to their newest values, whenever it is woken.
func (u *Uplink) fetch(ctx context.Context) error {
	for failed := 0; ; {
		err := u.catchUp(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failed = 0
			select {
			case <-ctx.Done():
				return nil
			case <-u.fetchNow:
			}
			continue
		}
		failed++
		wait, told := comeAgain(err, random())
		if !told {
			wait = u.pace.retry.delay(failed, random())
		}
		u.log.Warn("not up to date yet", "error", err, "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait, u.fetchNow) {
			return nil
		}
	}
}

// catchUp does what is due, if a hub is there. An error means that it is to be tried again. Secrets come first: a rotated
// one serves whatever becomes of the release.
func (u *Uplink) catchUp(ctx context.Context) error {
	u.mu.Lock()
	following, target, rejected := u.following, u.target, u.rejected
	u.mu.Unlock()
	if !following {
		return nil // the next stream wakes fetch
	}
	secretsErr := u.refreshSecrets(ctx)
	if err := errors.Join(secretsErr, u.loadDue(ctx, target, rejected)); err != nil {
		return err
	}
	return u.refreshSecrets(ctx)
}

// refreshSecrets fetches the secrets if one that serves is missing or may have changed.
func (u *Uplink) refreshSecrets(ctx context.Context) error {
	if u.secrets.isStale() || len(u.missingSecrets(u.c.Loaded().Secrets)) > 0 {
		return u.fetchSecrets(ctx)
	}
	return nil
}

// loadDue loads the target if it is newer than what serves and not known to be unfit.
func (u *Uplink) loadDue(ctx context.Context, target, rejected *gwv1.Target) error {
	loaded := u.c.Loaded()
	if newer(target, loaded.Epoch, loaded.Number) && !samePair(target, rejected) {
		return u.loadTarget(ctx, loaded)
	}
	if !newer(target, loaded.Epoch, loaded.Number) {
		u.clearApplyError(loaded)
	}
	return nil
}

func samePair(a, b *gwv1.Target) bool {
	return a != nil && b != nil && a.Epoch == b.Epoch && a.Number == b.Number
}

// loadTarget fetches one release and has it applied. What can't be loaded by this binary is remembered and no error.
func (u *Uplink) loadTarget(ctx context.Context, loaded Loaded) error {
	started := u.now()
	target, err := u.fetchAndApply(ctx, loaded)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		u.kept = nil
		u.clearApplyError(u.c.Loaded())
		wake(u.beatNow)
		u.log.Info("release loaded", "release", target.Number, "epoch", target.Epoch, "took", u.now().Sub(started).Round(time.Millisecond))
		return nil
	}
	if errors.Is(err, errRejectedAgain) {
		return nil
	}
	if reasonOf(err) == overloaded {
		return err // it has a turn, and to say that now would only add to the load
	}
	f := failure(CodeStorage, err)
	u.mu.Lock()
	if target == nil {
		target = u.target // it failed before the hub said which one it sends
	}
	u.applyError = &gwv1.ApplyError{
		Epoch: target.GetEpoch(), Release: target.GetNumber(), Kind: f.Kind, Name: f.Name, Field: f.Field, Code: f.Code,
		Message: clip(strings.ToValidUTF8(f.Message, "?"), 1024), At: timestamppb.New(u.now()),
	}
	if f.final() {
		u.rejected = proto.CloneOf(target)
	}
	u.mu.Unlock()
	wake(u.beatNow)
	if f.final() {
		u.kept = nil
		u.log.Error("release rejected; the one before goes on serving", "release", target.GetNumber(), "error", f)
		return nil
	}
	return fmt.Errorf("load release %d: %w", target.GetNumber(), f)
}

// clearApplyError forgets a failure once what is loaded is at least as new as what failed.
func (u *Uplink) clearApplyError(loaded Loaded) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e := u.applyError; e != nil && !newer(&gwv1.Target{Epoch: e.Epoch, Number: e.Release}, loaded.Epoch, loaded.Number) {
		u.applyError = nil
		wake(u.beatNow)
	}
}

// errRejectedAgain means that the hub sends a release that was rejected before.
var errRejectedAgain = errors.New("release was rejected before")

// fetchAndApply returns the target that the hub sent, nil if it didn't come to that.
func (u *Uplink) fetchAndApply(ctx context.Context, loaded Loaded) (*gwv1.Target, error) {
	r, target, err := u.fetchRelease(ctx, loaded)
	if err != nil {
		return target, failure(CodeFetch, err)
	}
	if u.c.SecretsOf != nil {
		names, err := u.c.SecretsOf(r)
		if err != nil {
			return target, failure(CodeCompile, err)
		}
		if len(names) > 0 {
			if err := u.fetchSecretsFor(ctx, names); err != nil {
				return target, failure(CodeFetch, err)
			}
		}
	}
	if err := u.c.Apply(ctx, r); err != nil {
		return target, failure(CodeStorage, err)
	}
	return target, nil
}

// fetchSecretsFor gets the secrets of a release before it is applied, so that it never serves without them.
func (u *Uplink) fetchSecretsFor(ctx context.Context, names []string) error {
	if err := u.fetchSecrets(ctx); err != nil {
		return err
	}
	if missing := u.missingSecrets(names); len(missing) > 0 {
		return fmt.Errorf("the hub has no value for secret %s", strings.Join(missing, ", "))
	}
	return nil
}

// fetchRelease gets the newest release as a difference to what the disk holds, and verifies what comes: from the tick that
// told of it, from the hub that is followed, or, if that has too many edges at once, from another one. What
// came of a transfer that was cut off is kept for the next; what was wrong with anything that came lets all of it be sent
// again.
func (u *Uplink) fetchRelease(ctx context.Context, loaded Loaded) (Release, *gwv1.Target, error) {
	if parts := u.takeDelivered(); parts != nil {
		r, target, err := u.receive(u.newTransfer(ctx, loaded), slices.Values(parts))
		if err == nil || errors.Is(err, errRejectedAgain) {
			return r, target, err
		}
		u.log.Debug("what came with the tick can't be used", "release", target.GetNumber(), "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, u.pace.fetch)
	defer cancel()
	u.mu.Lock()
	from := u.hubs.route()
	u.mu.Unlock()
	r, target, err := u.fetchFrom(ctx, from, loaded)
	if others := fetchURLs(err); len(others) > 0 {
		other := others[int(random()*float64(len(others)))]
		if r, target, err := u.fetchFrom(ctx, route{hub: other, stale: true}, loaded); err == nil || errors.Is(err, errRejectedAgain) {
			return r, target, err
		}
	}
	return r, target, err
}

// fetchFrom fetches the newest release from a hub.
func (u *Uplink) fetchFrom(ctx context.Context, from route, loaded Loaded) (Release, *gwv1.Target, error) {
	t := u.newTransfer(ctx, loaded)
	t.kept, u.kept = u.kept, nil
	u.mu.Lock()
	want := proto.CloneOf(u.target)
	u.mu.Unlock()
	call, err := u.ident.Load().client(from).FetchRelease(ctx, &gwv1.FetchReleaseRequest{
		BaseChecksum: t.baseSum, Held: t.kept.digests(), Target: want,
	})
	if err != nil {
		u.kept = t.kept
		return Release{}, nil, fmt.Errorf("fetch release: %w", err)
	}
	defer call.Close()
	r, target, err := u.receive(t, func(yield func(*gwv1.FetchReleaseResponse) bool) {
		for call.Receive() && yield(call.Msg()) {
		}
	})
	if broken := call.Err(); broken != nil && !t.ended {
		u.kept = t.salvage() // the next try asks for the rest
		return Release{}, target, fmt.Errorf("fetch release: %w", broken)
	}
	return r, target, err
}

// newTransfer begins a transfer to what the disk holds.
func (u *Uplink) newTransfer(ctx context.Context, loaded Loaded) *transfer {
	t := &transfer{
		namespace: u.ident.Load().edge.Namespace,
		running:   &gwv1.Target{Epoch: loaded.Epoch, Number: loaded.Number},
	}
	t.base, t.baseSum = u.base(ctx, t.namespace, loaded)
	return t
}

// receive puts parts together until the end is among them, and returns the whole.
func (u *Uplink) receive(t *transfer, parts iter.Seq[*gwv1.FetchReleaseResponse]) (Release, *gwv1.Target, error) {
	for p := range parts {
		if err := t.part(p); err != nil {
			return Release{}, t.header.GetTarget(), err
		}
		u.mu.Lock()
		rejected := samePair(t.header.Target, u.rejected)
		u.mu.Unlock()
		if rejected {
			return Release{}, t.header.Target, errRejectedAgain
		}
		if t.ended {
			break
		}
	}
	r, err := t.release()
	if err == nil {
		u.kept = t.salvage() // until it is loaded: trying that again brings no byte again
	}
	return r, t.header.GetTarget(), err
}

// base returns the newest stored release that a difference can be applied to, preferring the one that serves. Without
// one the release comes whole.
func (u *Uplink) base(ctx context.Context, namespace string, loaded Loaded) ([]*gwv1.Blob, []byte) {
	var fallback []*gwv1.Blob
	var fallbackSum []byte
	for generation := range 2 {
		r, blobs, err := u.c.Store.LoadRelease(ctx, generation)
		if err != nil || r.Namespace != namespace {
			continue
		}
		if bytes.Equal(r.GetTarget().GetChecksum(), loaded.Checksum[:]) {
			return blobs, r.Target.GetChecksum()
		}
		if fallbackSum == nil {
			fallback, fallbackSum = blobs, r.GetTarget().GetChecksum()
		}
	}
	return fallback, fallbackSum
}
