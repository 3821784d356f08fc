package uplink

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Bounds on the interval a hub may ask for.
const (
	minInterval = time.Second
	maxInterval = 10 * time.Minute
)

// beat reports when something changed, a stream was opened, or the interval is over.
func (u *Uplink) beat(ctx context.Context) error {
	interval := u.pace.heartbeat
	wait := around(interval, random())
	for failed := 0; ; {
		if !sleep(ctx, wait, u.beatNow) {
			return nil
		}
		answer, err := u.heartbeat(ctx, u.ident.Load())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			failed++
			u.noteEnded(err)
			wait = min(u.pace.retry.delay(failed, random()), around(interval, random()))
			if u.noteRevoked(err) {
				wait = u.pace.revoked.delay(failed, random())
			}
			u.log.Warn("heartbeat failed", "error", err, "reason", reasonOf(err))
			continue
		}
		failed = 0
		if d := answer.GetInterval(); d != nil {
			interval = min(max(d.AsDuration(), minInterval), maxInterval)
		}
		wait = around(interval, random())
		u.heard()
		u.learnHubs(answer.HubUrls)
		u.raiseTarget(answer.Target)
		wake(u.drainNow)
		u.raiseRetry(answer.Retry)
	}
}

// heartbeat sends one under a certificate.
func (u *Uplink) heartbeat(ctx context.Context, cred *credentials) (*gwv1.HeartbeatResponse, error) {
	loaded := u.c.Loaded()
	request := &gwv1.HeartbeatRequest{
		SessionId: u.session, Version: clip(u.c.Version, 128), Build: clip(u.c.Build, 128), StartedAt: u.startedAt,
		LoadedEpoch: loaded.Epoch, LoadedRelease: loaded.Number, LoadedChecksum: loaded.Checksum[:],
		Health: gwv1.Health_HEALTH_OK, Metadata: u.c.Metadata, SchemaLevel: resource.SchemaLevel,
	}
	if u.c.Health != nil {
		h := u.c.Health()
		request.Health, request.HealthReason = h.State, clip(h.Reason, 1024)
	}
	if u.c.Vitals != nil {
		request.Vitals = u.c.Vitals()
	}
	if u.c.Addresses != nil {
		request.Addresses = u.c.Addresses()
	}
	if u.c.Plugins != nil {
		request.Plugins = firstOf(u.c.Plugins(), maxPluginsTold)
	}
	if u.c.Spool != nil {
		request.Queues = firstOf(u.c.Spool.Queues(), maxPluginsTold)
	}
	u.mu.Lock()
	u.sequence++
	request.Sequence = u.sequence
	request.AccessVersion = u.access.AccessVersion
	if u.applyError != nil {
		request.ApplyError = proto.CloneOf(u.applyError)
	}
	at := u.hubs.route()
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, u.pace.call)
	defer cancel()
	answer, err := cred.client(at).Heartbeat(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("heartbeat to %s: %w", at.hub, err)
	}
	return answer, nil
}

// learnHubs remembers the hubs a hub named; naming none says nothing.
func (u *Uplink) learnHubs(urls []string) {
	if len(urls) == 0 {
		return
	}
	u.mu.Lock()
	changed := u.hubs.told(urls, u.c.Hubs)
	u.mu.Unlock()
	if changed {
		u.saveIdentity()
	}
}

// maxPluginsTold bounds what one heartbeat tells of plugins.
const maxPluginsTold = 256

func firstOf[T any](list []T, n int) []T { return list[:min(len(list), n)] }

// clip cuts s to at most n bytes, at a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
