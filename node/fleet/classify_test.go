package fleet

import (
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

const (
	connected    = gwv1.Connection_CONNECTION_CONNECTED
	stale        = gwv1.Connection_CONNECTION_STALE
	disconnected = gwv1.Connection_CONNECTION_DISCONNECTED
	unknown      = gwv1.Sync_SYNC_UNKNOWN
	inSync       = gwv1.Sync_SYNC_IN_SYNC
	pending      = gwv1.Sync_SYNC_PENDING
	syncStale    = gwv1.Sync_SYNC_STALE
)

var (
	epoch0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now    = epoch0.Add(time.Hour)
	older  = resource.Digest{1}
	newer2 = resource.Digest{2}
	saved  = resource.Digest{3}
)

// facts are those of an edge that runs release 7 as saved, long after the leader changed; each case changes some.
func facts() Facts {
	return Facts{
		Record: &gwv1.EdgeRecord{Id: "e1", Namespace: "default", FirstSeen: epoch0.Add(-time.Hour).UnixNano()},
		Live: &Live{
			Namespace: "default", SessionID: "s1", FirstHeard: epoch0, HeardAt: now.Add(-5 * time.Second), Interval: 30 * time.Second,
			Streaming: true, StreamSince: epoch0,
			Heartbeat: &gwv1.HeartbeatRequest{LoadedEpoch: 1, LoadedRelease: 7, LoadedChecksum: newer2[:], Health: gwv1.Health_HEALTH_OK},
		},
		Target:   Target{Epoch: 1, Number: 7, Checksum: newer2, PushedAt: now.Add(-10 * time.Minute)},
		Expected: newer2, Now: now, LeaderSince: epoch0, Interval: 30 * time.Second,
	}
}

func TestConnection(t *testing.T) {
	heard := func(ago time.Duration) func(*Facts) {
		return func(f *Facts) { f.Live.HeardAt = now.Add(-ago) }
	}
	for name, c := range map[string]struct {
		change func(*Facts)
		want   gwv1.Connection
		reason string
	}{
		"heard lately": {func(*Facts) {}, connected, "its last heartbeat came 5s ago"},
		"revoked": {func(f *Facts) {
			f.Revoked = &gwv1.RevocationRecord{By: "ann", At: now.Add(-3 * time.Minute).UnixNano()}
		}, disconnected, "revoked by ann 3m0s ago; it can enrol again"},
		"revoked beats goodbye and grace": {func(f *Facts) {
			f.Live, f.LeaderSince = nil, now
			f.Revoked = &gwv1.RevocationRecord{By: "ann", At: now.UnixNano()}
		}, disconnected, "revoked by ann 0s ago"},
		"goodbye":                  {func(f *Facts) { f.Live.Goodbye = true }, disconnected, "it said goodbye"},
		"4 intervals":              {heard(120 * time.Second), disconnected, "its last heartbeat came 2m0s ago; one is due every 30s"},
		"just under 4 intervals":   {heard(120*time.Second - 1), stale, "its last heartbeat came 1m59s ago"},
		"2.5 intervals":            {heard(75 * time.Second), stale, "its last heartbeat came 1m15s ago"},
		"just under 2.5 intervals": {heard(75*time.Second - 1), connected, "1m14s"},
		"told a longer interval":   {func(f *Facts) { heard(120 * time.Second)(f); f.Live.Interval = time.Minute }, connected, "2m0s"},
		"stream broke 10 s ago":    {func(f *Facts) { f.Live.Streaming, f.Live.StreamSince = false, now.Add(-10*time.Second) }, stale, "its watch stream broke 10s ago"},
		"never a stream": {func(f *Facts) {
			f.Live.Streaming, f.Live.FirstHeard, f.Live.StreamSince = false, now.Add(-10*time.Second), now.Add(-10*time.Second)
		}, stale, "it was first heard 10s ago and has not opened its watch stream"},
		"stream broke just now":      {func(f *Facts) { f.Live.Streaming, f.Live.StreamSince = false, now.Add(-10*time.Second+1) }, connected, ""},
		"lost beats a broken stream": {func(f *Facts) { heard(120 * time.Second)(f); f.Live.Streaming = false }, disconnected, ""},
		"goodbye beats everything":   {func(f *Facts) { f.Live.Goodbye, f.Live.Streaming = true, false }, disconnected, "goodbye"},
		"stream only, new": {func(f *Facts) {
			f.Live.Heartbeat, f.Live.HeardAt, f.Live.FirstHeard = nil, time.Time{}, now.Add(-time.Second)
		}, connected, "its watch stream opened 1s ago"},
		"stream only, 4 intervals": {func(f *Facts) {
			f.Live.Heartbeat, f.Live.HeardAt, f.Live.FirstHeard = nil, time.Time{}, now.Add(-120*time.Second)
		}, disconnected, "it has not sent a heartbeat since it connected"},
		"leader changed, unheard":        {func(f *Facts) { f.Live = nil; f.LeaderSince = now.Add(-4 * time.Second) }, stale, "leader changed 4s ago"},
		"grace of 90 s is over":          {func(f *Facts) { f.Live = nil; f.LeaderSince = now.Add(-90 * time.Second) }, disconnected, "not heard since the leader changed 1m30s ago"},
		"grace lasts 3 intervals":        {func(f *Facts) { f.Live = nil; f.Interval = time.Minute; f.LeaderSince = now.Add(-179 * time.Second) }, stale, "leader changed"},
		"grace of 3 intervals is over":   {func(f *Facts) { f.Live = nil; f.Interval = time.Minute; f.LeaderSince = now.Add(-180 * time.Second) }, disconnected, ""},
		"enrolled just now":              {func(f *Facts) { f.Live = nil; f.Record.FirstSeen = now.Add(-2 * time.Second).UnixNano() }, stale, "it enrolled 2s ago and has not been heard yet"},
		"enrolled long ago, never heard": {func(f *Facts) { f.Live = nil; f.Record.FirstSeen = now.Add(-5 * time.Minute).UnixNano() }, disconnected, "it enrolled 5m0s ago and was never heard"},
		"conflict": {func(f *Facts) {
			f.Live.ConflictingSessionID, f.Live.ConflictingAddress = "0123456789abcdef", "10.0.0.2:99"
		}, connected, "another live process, session 01234567 at 10.0.0.2:99, carries the same ID"},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts()
			c.change(&f)
			e := Describe(&f)
			if e.Connection != c.want || !strings.Contains(e.ConnectionReason, c.reason) || e.ConnectionReason == "" {
				t.Errorf("got %v (%q), want %v (%q)", e.Connection, e.ConnectionReason, c.want, c.reason)
			}
		})
	}
}

func TestSync(t *testing.T) {
	behind := func(f *Facts) {
		f.Live.Heartbeat.LoadedRelease, f.Live.Heartbeat.LoadedChecksum = 6, older[:]
		f.Target.PushedAt = now.Add(-60 * time.Second)
	}
	failed := func(release uint64) func(*Facts) {
		return func(f *Facts) {
			behind(f)
			f.Live.Heartbeat.ApplyError = &gwv1.ApplyError{Epoch: 1, Release: release, Kind: "API", Name: "orders", Field: "spec.paths[0]", Code: "compile", Message: "taken by API/old"}
		}
	}
	unheard := func(since time.Duration) func(*Facts) {
		return func(f *Facts) {
			f.Live = nil
			f.Record.LoadedEpoch, f.Record.LoadedRelease, f.Record.LoadedChecksum = 1, 7, newer2[:]
			f.LeaderSince = now.Add(-since)
		}
	}
	for name, c := range map[string]struct {
		change func(*Facts)
		want   gwv1.Sync
		reason string
	}{
		"as saved":                        {func(*Facts) {}, inSync, "it runs release 7 as saved"},
		"no checksum reported":            {func(f *Facts) { f.Live.Heartbeat.LoadedChecksum = nil }, unknown, "it has not said what it runs yet"},
		"unheard in the grace period":     {unheard(4 * time.Second), unknown, "leader changed 4s ago"},
		"unheard after the grace period":  {unheard(90 * time.Second), inSync, ""},
		"stream only, in grace":           {func(f *Facts) { unheard(time.Second)(f); f.Live = &Live{Streaming: true, FirstHeard: now} }, unknown, "leader changed"},
		"ahead by number":                 {func(f *Facts) { f.Live.Heartbeat.LoadedRelease = 8 }, syncStale, "ahead: it runs release 8 of epoch 1"},
		"ahead by epoch":                  {func(f *Facts) { f.Live.Heartbeat.LoadedEpoch, f.Live.Heartbeat.LoadedRelease = 2, 3 }, syncStale, "ahead: it runs release 3 of epoch 2"},
		"ahead with the same content":     {func(f *Facts) { f.Target.Number = 5 }, syncStale, "ahead"},
		"drifted":                         {func(f *Facts) { f.Live.Heartbeat.LoadedChecksum = older[:] }, syncStale, "drifted: it runs release 7 with checksum 01000000 instead of 02000000"},
		"apply failed":                    {failed(7), syncStale, "could not apply release 7: API/orders spec.paths[0]: taken by API/old"},
		"an earlier apply failed":         {failed(6), pending, "on its way"},
		"failed to save what it runs":     {func(f *Facts) { f.Live.Heartbeat.ApplyError = &gwv1.ApplyError{Epoch: 1, Release: 7, Code: "storage"} }, inSync, ""},
		"pushed 60 s ago":                 {behind, pending, "on its way: it runs release 6, the target is release 7, pushed 1m0s ago"},
		"pushed over 60 s ago":            {func(f *Facts) { behind(f); f.Target.PushedAt = f.Target.PushedAt.Add(-1) }, syncStale, "it runs release 6, the target is release 7, pushed 1m0s ago"},
		"behind and not connected":        {func(f *Facts) { behind(f); f.Live.Goodbye = true }, syncStale, "and it is not connected"},
		"behind and connection stale":     {func(f *Facts) { behind(f); f.Live.HeardAt = now.Add(-80 * time.Second) }, syncStale, "and it is not connected"},
		"unpushed changes":                {func(f *Facts) { f.Expected = saved }, pending, "its namespace has unpushed changes"},
		"behind beats unpushed changes":   {func(f *Facts) { behind(f); f.Expected = saved }, pending, "on its way"},
		"in sync though not connected":    {func(f *Facts) { f.Live.Goodbye = true }, inSync, ""},
		"same content under a new number": {func(f *Facts) { f.Live.Heartbeat.LoadedRelease = 5 }, inSync, ""},
		"nothing pushed, nothing saved": {func(f *Facts) {
			f.Target, f.Expected = Target{Checksum: resource.EmptyChecksum}, resource.EmptyChecksum
			f.Live.Heartbeat = &gwv1.HeartbeatRequest{LoadedChecksum: resource.EmptyChecksum[:]}
		}, inSync, "it runs no release as saved"},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts()
			c.change(&f)
			e := Describe(&f)
			if e.Sync != c.want || !strings.Contains(e.SyncReason, c.reason) || e.SyncReason == "" {
				t.Errorf("got %v (%q), want %v (%q)", e.Sync, e.SyncReason, c.want, c.reason)
			}
		})
	}
}

func TestAHubThatFollowsHearsNobody(t *testing.T) {
	f := facts()
	f.Live, f.Following = nil, true
	f.Record.LoadedEpoch, f.Record.LoadedRelease, f.Record.LoadedChecksum = 1, 7, newer2[:]
	e := Describe(&f)
	if e.Connection != stale || e.Sync != unknown || !strings.Contains(e.ConnectionReason, "only the leader hears") || e.SyncReason != e.ConnectionReason {
		t.Errorf("got %v %q, %v %q", e.Connection, e.ConnectionReason, e.Sync, e.SyncReason)
	}
}

// Of several values the first one in DESIGN's table is shown: each pair below differs by one fact, which comes earlier.
func TestTheFirstMatchWins(t *testing.T) {
	broken := func(f *Facts) { f.Live.Streaming, f.Live.StreamSince = false, now.Add(-time.Minute) }
	behind := func(f *Facts) { f.Live.Heartbeat.LoadedRelease, f.Live.Heartbeat.LoadedChecksum = 6, older[:] }
	failed := func(f *Facts) {
		behind(f)
		f.Live.Heartbeat.ApplyError = &gwv1.ApplyError{Epoch: 1, Release: 7, Message: "no"}
	}
	ahead := func(f *Facts) { f.Live.Heartbeat.LoadedEpoch = 2 }
	all := func(changes ...func(*Facts)) func(*Facts) {
		return func(f *Facts) {
			for _, c := range changes {
				c(f)
			}
		}
	}
	for _, c := range []struct {
		name             string
		change           func(*Facts)
		connection, sync string // beginnings of the reasons
	}{
		{"nothing", all(), "its last heartbeat came", "it runs release 7 as saved"},
		{"unpushed changes", func(f *Facts) { f.Expected = saved }, "its last heartbeat", "its namespace has unpushed changes"},
		{"behind, before unpushed changes", func(f *Facts) { behind(f); f.Expected, f.Target.PushedAt = saved, now }, "its last heartbeat", "on its way"},
		{"for long, before on its way", func(f *Facts) { behind(f); f.Target.PushedAt = now.Add(-time.Hour) }, "its last heartbeat", "it runs release 6, the target is release 7, pushed 1h0m0s ago"},
		{"not connected, before for long", all(behind, broken), "its watch stream broke", "it runs release 6, the target is release 7, and it is not connected"},
		{"failed, before not connected", all(failed, broken), "its watch stream broke", "could not apply release 7"},
		{"drifted, before failed", func(f *Facts) { failed(f); f.Live.Heartbeat.LoadedRelease = 7 }, "its last heartbeat", "drifted"},
		{"ahead, before failed", all(failed, ahead), "its last heartbeat", "ahead"},
		{"no checksum, before ahead", func(f *Facts) { ahead(f); f.Live.Heartbeat.LoadedChecksum = nil }, "its last heartbeat", "it has not said what it runs"},
		{"late and a broken stream", func(f *Facts) { broken(f); f.Live.HeardAt = now.Add(-80 * time.Second) }, "its watch stream broke", ""},
		{"lost, before a broken stream", func(f *Facts) { broken(f); f.Live.HeardAt = now.Add(-2 * time.Minute) }, "its last heartbeat came 2m0s ago; one is due every 30s", ""},
		{"goodbye, before lost", func(f *Facts) { f.Live.Goodbye = true; f.Live.HeardAt = now.Add(-2 * time.Minute) }, "it said goodbye", ""},
		{"revoked, before goodbye", func(f *Facts) { f.Live.Goodbye = true; f.Revoked = &gwv1.RevocationRecord{By: "ann"} }, "revoked by ann", ""},
	} {
		f := facts()
		c.change(&f)
		if e := Describe(&f); !strings.HasPrefix(e.ConnectionReason, c.connection) || !strings.HasPrefix(e.SyncReason, c.sync) {
			t.Errorf("%s: got %q and %q", c.name, e.ConnectionReason, e.SyncReason)
		}
	}
}

func TestACertificateAboutToEndIsAHealthProblem(t *testing.T) {
	for _, c := range []struct {
		left   time.Duration
		says   gwv1.Health
		reason string
		want   gwv1.Health
		shown  string
	}{
		{certificateShort, gwv1.Health_HEALTH_OK, "", gwv1.Health_HEALTH_OK, "nothing is wrong"},
		{certificateShort - 1, gwv1.Health_HEALTH_OK, "", gwv1.Health_HEALTH_DEGRADED, "its certificate ends in 3h59m59s and was not renewed when it was due"},
		{-time.Minute, gwv1.Health_HEALTH_OK, "", gwv1.Health_HEALTH_DEGRADED, "its certificate ended 1m0s ago and was not renewed"},
		{time.Hour, gwv1.Health_HEALTH_FAILING, "disk full", gwv1.Health_HEALTH_FAILING, "disk full; its certificate ends in 1h0m0s"},
		{time.Hour, gwv1.Health_HEALTH_DEGRADED, "", gwv1.Health_HEALTH_DEGRADED, "it gave no reason; its certificate ends in 1h0m0s"},
	} {
		f := facts()
		f.Live.Certificate.NotAfter = now.Add(c.left)
		f.Live.Heartbeat.Health, f.Live.Heartbeat.HealthReason = c.says, c.reason
		if e := Describe(&f); e.Health != c.want || !strings.HasPrefix(e.HealthReason, c.shown) {
			t.Errorf("%v left: got %v %q, want %v %q", c.left, e.Health, e.HealthReason, c.want, c.shown)
		}
	}
}

func TestHealthIsWhatTheEdgeSays(t *testing.T) {
	f := facts()
	f.Live.Heartbeat.Health, f.Live.Heartbeat.HealthReason = gwv1.Health_HEALTH_DEGRADED, "offline grace running"
	if e := Describe(&f); e.Health != gwv1.Health_HEALTH_DEGRADED || e.HealthReason != "offline grace running" {
		t.Errorf("got %v %q", e.Health, e.HealthReason)
	}
	f.Live = nil
	if e := Describe(&f); e.Health != gwv1.Health_HEALTH_UNSPECIFIED || e.HealthReason == "" {
		t.Errorf("unheard: got %v %q", e.Health, e.HealthReason)
	}
}

// A leader counts its whole fleet for every page of it.
func TestClassifyAllocatesNothing(t *testing.T) {
	heard, unheard := facts(), facts()
	unheard.Live = nil
	behind := facts()
	behind.Target.Number++
	behind.Target.Checksum = saved
	for name, f := range map[string]Facts{"heard": heard, "not heard": unheard, "behind": behind} {
		if n := testing.AllocsPerRun(100, func() { Classify(&f) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}
