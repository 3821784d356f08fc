package node

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// judge checks everything that was seen of every edge, against what was released and revoked and what was done to whom.
func (f *trial) judge() {
	f.t.Helper()
	f.stopCalls()
	var wrong []string
	requests := 0
	for _, k := range f.callers {
		requests += len(k.asked)
		j := &judgement{trial: f, caller: k, name: k.edge.name, releases: f.pusher.releases[k.edge.namespace]}
		j.served()
		j.answered()
		j.refused()
		wrong = append(wrong, j.wrong...)
	}
	for _, h := range f.c.hubs {
		wrong = append(wrong, panics(h.name, h.log())...)
	}
	for _, e := range f.edges {
		wrong = append(wrong, panics(e.name, e.log())...)
	}
	wrong = append(wrong, f.pusher.findings...)
	wrong = append(wrong, f.revoker.findings...)
	for _, w := range wrong[:min(len(wrong), 10)] {
		f.t.Error(w)
	}
	pushes := 0
	for _, list := range f.pusher.releases {
		pushes += len(list)
	}
	f.t.Logf("done: %s", f.tally())
	f.t.Logf("%d answers of %d edges checked, %d things wrong; %d releases, %d tokens", requests, len(f.callers), len(wrong), pushes, len(f.revoker.all))
	if len(f.pusher.findings) == 0 && (pushes < 4*f.plan.rounds || requests < 100*f.plan.rounds) {
		f.t.Error("that is too little to prove anything")
	}
}

// tally is how often what was done.
func (f *trial) tally() string {
	counts := map[string]int{}
	for victim, list := range f.past {
		for _, x := range list {
			whose := "edges"
			if victim == theHubs {
				whose = "hubs"
			}
			counts[whose+": "+x.what]++
		}
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d×", what, counts[what]))
	}
	return strings.Join(parts, ", ")
}

// judgement is about what one edge did.
type judgement struct {
	trial    *trial
	caller   *caller
	name     string
	releases []released // of its namespace, in their order
	wrong    []string
}

// find notes what is wrong about an answer, with those around it.
func (j *judgement) find(at int, format string, args ...any) {
	var around strings.Builder
	for i := max(0, at-12); i < min(len(j.caller.asked), at+4); i++ {
		mark := "   "
		if i == at {
			mark = " → "
		}
		fmt.Fprintf(&around, "\n%s%v", mark, j.caller.asked[i])
	}
	j.wrong = append(j.wrong, fmt.Sprintf("%s: %s%s", j.name, fmt.Sprintf(format, args...), &around))
}

// done are the faults of the edge, or of the hubs.
func (j *judgement) done(victim string) []*fault { return j.trial.past[victim] }

// served checks that every answer is of a release of the namespace, none older than the one before. Killed while its disk
// is full, an edge may go back once, to what it had before.
func (j *judgement) served() {
	var floor, saved uint64
	kills := slices.DeleteFunc(slices.Clone(j.done(j.name)), func(x *fault) bool { return x.what != diskFull })
	for i, r := range j.caller.asked {
		if len(kills) > 0 && saved == 0 && r.sent >= kills[0].from {
			saved = floor
		}
		if len(kills) > 0 && r.sent >= kills[0].to {
			if kills[0].ends {
				floor = saved
			}
			kills, saved = kills[1:], 0
		}
		if !tells(r) {
			continue
		}
		at := slices.IndexFunc(j.releases, func(x released) bool { return x.number >= floor && !x.bad && x.answers(r) })
		switch {
		case at >= 0:
			floor = j.releases[at].number
		case slices.ContainsFunc(j.releases, func(x released) bool { return !x.bad && x.answers(r) }):
			j.find(i, "it goes back, from release %d", floor)
		default:
			j.find(i, "it serves what was not released to %s", j.caller.edge.namespace)
		}
	}
}

// tells reports whether an answer tells of the release that gave it.
func tells(r request) bool {
	return r.status == http.StatusOK || r.path == "extra" && r.status == http.StatusNotFound
}

// answers reports whether a release gives this answer.
func (c content) answers(r request) bool {
	return r.value == map[string]string{"mark": c.mark, "shared": c.shared, "extra": c.extra}[r.path]
}

// answered checks that the token which is never revoked is served, whenever the edge runs.
func (j *judgement) answered() {
	back := map[*fault]time.Duration{} // when an edge that was killed answered again
	for _, x := range j.done(j.name) {
		if !x.ends {
			continue
		}
		at := slices.IndexFunc(j.caller.asked, func(r request) bool { return r.sent >= x.to && r.status > 0 })
		if at < 0 {
			j.find(len(j.caller.asked)-1, "it was started again at %v, and does not answer", x.to)
			return
		}
		if back[x] = j.caller.asked[at].got; back[x]-x.to > healed {
			j.find(at, "started again, it answers after %v", back[x]-x.to)
		}
	}
	for i, r := range j.caller.asked {
		if r.status == 0 && slices.ContainsFunc(j.done(j.name), func(x *fault) bool { return x.ends && x.from <= r.got && r.sent <= back[x] }) {
			continue
		}
		if r.status == 0 || r.credential == nil && !tells(r) && !j.mustAskAgain(r) {
			j.find(i, "it does not serve a token it knows")
		}
	}
}

// mustAskAgain reports whether an edge may refuse for the moment a token it knows: after a restore it has to ask a hub
// about every token once more, and as long as it takes one for alive, whose silence can last 10 s, it waits for the answer.
func (j *judgement) mustAskAgain(r request) bool {
	return r.status == http.StatusServiceUnavailable && slices.ContainsFunc(j.trial.restored, func(at time.Duration) bool {
		return r.sent >= at && r.sent < at+healed+settled && !j.undisturbed(at, r.got)
	})
}

// undisturbed reports whether nothing was done to the edge or the hubs in a time.
func (j *judgement) undisturbed(from, to time.Duration) bool {
	for _, x := range slices.Concat(j.done(j.name), j.done(theHubs)) {
		if x.overlaps(from, to) {
			return false
		}
	}
	return true
}

// settled is how long after a fault an edge may take a stream for one that is alive although it is not.
const settled = 3 * time.Second

// knows reports whether an edge must have heard, when it answered a request, of what happened at a time: it followed a
// hub a second afterwards, and nothing was done since some time before.
func (j *judgement) knows(at time.Duration, r request) bool {
	return slices.ContainsFunc(j.caller.looks, func(l look) bool {
		return l.following && l.sent >= at+time.Second && l.got <= r.sent && j.undisturbed(l.sent-settled, r.got)
	})
}

// refused checks the answers to tokens that come and go: those that are valid are never called unknown, those that are
// revoked are refused by every edge that must know it, and stay refused.
func (j *judgement) refused() {
	since, served := map[*credential]request{}, map[*credential]request{} // the first refusal, the first other answer
	for i, r := range j.caller.asked {
		k := r.credential
		if k == nil || r.status == 0 {
			continue
		}
		first, was := since[k]
		switch {
		case r.status == http.StatusUnauthorized:
			if k.asked == 0 || r.got < k.asked {
				j.find(i, "it refuses a token that was not revoked (asked for at %v)", k.asked)
			}
			if !was {
				since[k] = r
			}
		case r.status == http.StatusOK && k.revoked > 0 && j.knows(k.revoked, r):
			j.find(i, "it serves a token that was revoked at %v", k.revoked)
		case r.status == http.StatusOK && was && !j.mayForget(first, r):
			j.find(i, "it serves a token it refused at %v", first.got)
		case r.status == http.StatusOK:
			if _, ok := served[k]; !ok {
				served[k] = r
			}
		case r.status == http.StatusServiceUnavailable:
			// Nobody can be asked about a token that the edge doesn't know. One that it has served it knows.
			before, ok := served[k]
			if ok && (k.asked == 0 || r.got < k.asked) && !j.mayForget(before, r) && !j.mustAskAgain(r) {
				j.find(i, "it does not serve a token it served at %v", before.got)
			}
		default:
			j.find(i, "an answer that nothing explains")
		}
	}
}

// mayForget reports whether a refusal may not have reached the disk before the edge was killed: it takes some 100 ms, and
// longer on a disk that is full.
func (j *judgement) mayForget(first, later request) bool {
	return slices.ContainsFunc(j.done(j.name), func(x *fault) bool {
		return x.ends && x.overlaps(first.sent, later.sent) && (x.what == diskFull || x.from < first.got+time.Second)
	})
}

// panics are the lines of a log that tell of one.
func panics(name, log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "panic in ") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			lines = append(lines, name+": "+strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(line))
		}
	}
	return lines
}

// What an edge must not do is found in what was seen of it, and what it may is not.
func TestAnswersOfAnEdgeThatAreWrongAreCaught(t *testing.T) {
	const s = time.Second
	releases := []released{
		{number: 1, content: content{mark: "east/1", shared: "global/1", extra: "east/1"}},
		{number: 2, bad: true, content: content{mark: "bad"}},
		{number: 3, content: content{mark: "east/2", shared: "global/1"}},
	}
	revoked := &credential{id: "r", asked: 10 * s, revoked: 10 * s}
	mark := func(at time.Duration, value string) request {
		return request{path: "mark", sent: at, got: at, status: http.StatusOK, value: value}
	}
	of := func(k *credential, at time.Duration, status int) request {
		r := request{path: "mark", credential: k, sent: at, got: at, status: status}
		if status == http.StatusOK {
			r.value = "east/2"
		}
		return r
	}
	with := func(at time.Duration, path string, status int, value string) request {
		return request{path: path, sent: at, got: at, status: status, value: value}
	}
	killed := []*fault{{what: "kill -9", ends: true, from: 5 * s, to: 6 * s}}
	full := []*fault{{what: diskFull, ends: true, from: 5 * s, to: 6 * s}}
	for name, c := range map[string]struct {
		asked     []request
		following []time.Duration
		faults    []*fault
		restored  time.Duration
		wrong     int
	}{
		"new releases":                    {asked: []request{mark(s, "east/1"), with(2*s, "extra", 404, ""), mark(3*s, "east/2")}},
		"back":                            {asked: []request{mark(s, "east/2"), mark(2*s, "east/1")}, wrong: 1},
		"back by what was removed":        {asked: []request{mark(s, "east/2"), with(2*s, "extra", 200, "east/1")}, wrong: 1},
		"what was not released":           {asked: []request{mark(s, "east/3")}, wrong: 1},
		"what does not load":              {asked: []request{mark(s, "bad")}, wrong: 1},
		"another namespace":               {asked: []request{mark(s, "west/1")}, wrong: 1},
		"back after a restart":            {asked: []request{mark(s, "east/2"), mark(7*s, "east/1")}, faults: killed, wrong: 1},
		"back with a full disk":           {asked: []request{mark(s, "east/1"), mark(5*s+1, "east/2"), mark(7*s, "east/1"), mark(8*s, "east/2")}, faults: full},
		"back with a full disk, too far":  {asked: []request{mark(s, "east/2"), mark(5*s+1, "east/2"), mark(7*s, "east/1")}, faults: full, wrong: 1},
		"killed":                          {asked: []request{with(5*s+1, "mark", 0, ""), mark(7*s, "east/1")}, faults: killed},
		"not there, and not killed":       {asked: []request{with(5*s+1, "mark", 0, ""), mark(7*s, "east/1")}, wrong: 1},
		"gone for long":                   {asked: []request{mark(17*s, "east/1")}, faults: killed, wrong: 1},
		"a known token refused":           {asked: []request{with(s, "mark", 503, "")}, wrong: 1},
		"asked again after a restore":     {asked: []request{mark(s, "east/1"), with(5*s+1, "mark", 503, ""), mark(7*s, "east/1")}, faults: killed, restored: 4 * s},
		"a valid token called unknown":    {asked: []request{of(revoked, 9*s, 401)}, wrong: 1},
		"a revoked token refused":         {asked: []request{of(revoked, 9*s, 200), of(revoked, 11*s, 401)}},
		"a revoked token served":          {asked: []request{of(revoked, 12*s, 200)}, following: []time.Duration{11 * s}, wrong: 1},
		"a revoked token served when cut": {asked: []request{of(revoked, 12*s, 200)}, following: []time.Duration{9 * s}},
		"a revoked token served again":    {asked: []request{of(revoked, 11*s, 401), of(revoked, 12*s, 200)}, wrong: 1},
		"nobody to ask about a new token": {asked: []request{of(revoked, 9*s, 503)}},
		"nobody to ask about a known one": {asked: []request{of(revoked, 8*s, 200), of(revoked, 9*s, 503)}, wrong: 1},
	} {
		k := &caller{edge: &edgeProcess{namespace: "east"}, asked: c.asked}
		for _, at := range c.following {
			k.looks = append(k.looks, look{sent: at, got: at, following: true})
		}
		f := &trial{past: map[string][]*fault{"e": c.faults}}
		if c.restored > 0 {
			f.restored = []time.Duration{c.restored}
		}
		j := &judgement{trial: f, caller: k, name: "e", releases: releases}
		j.served()
		j.answered()
		j.refused()
		if len(j.wrong) != c.wrong {
			t.Errorf("%s: %d things wrong, want %d: %v", name, len(j.wrong), c.wrong, j.wrong)
		}
	}
}
