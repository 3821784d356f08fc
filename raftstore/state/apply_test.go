package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func edit(namespace, name, spec string, secrets ...string) *gwv1.ResourceEdit {
	d := resource.DigestOf("API", name, []byte(spec))
	return &gwv1.ResourceEdit{Kind: "API", Namespace: namespace, Name: name, Spec: []byte(spec), Digest: d[:], Secrets: secrets}
}

func gone(namespace, name string) *gwv1.ResourceEdit {
	return &gwv1.ResourceEdit{Kind: "API", Namespace: namespace, Name: name, Delete: true}
}

func change1(edits ...*gwv1.ResourceEdit) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{Edits: edits}}}
}

func pushOf(s *State, namespaces ...string) *gwv1.Command {
	m := &gwv1.PushReleases{}
	for _, n := range namespaces {
		m.Namespaces = append(m.Namespaces, &gwv1.NamespaceChecksum{Namespace: n, Checksum: checksumOf(s, n)})
	}
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PushReleases{PushReleases: m}}
}

func putApp(create bool, namespace, name, id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutApp{PutApp: &gwv1.PutAppRecord{
		Create: create, App: &gwv1.AppRecord{Id: id, Namespace: namespace, Name: name},
	}}}
}

func putToken(id, app string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{
		Token: &gwv1.TokenRecord{Id: id, AppId: app, Hash: hashOf(id)},
	}}}
}

func putSecret(namespace, name string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutSecret{PutSecret: &gwv1.PutSecretRecord{
		Secret: &gwv1.SecretRecord{Namespace: namespace, Name: name, Sealed: []byte("sealed")},
	}}}
}

func deleteSecret(namespace, name string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_DeleteSecret{DeleteSecret: &gwv1.DeleteSecretRecord{Namespace: namespace, Name: name}}}
}

// log applies commands one after the other.
type log struct {
	*State
	t       testing.TB
	at      int64
	touched []resource.Key // by the last command
}

func newLog(t testing.TB) *log { return &log{State: New(), t: t, at: int64(time.Hour)} }

func (l *log) apply(c *gwv1.Command) *gwv1.Result {
	l.t.Helper()
	if c.ProposedAt == 0 {
		c.ProposedAt = l.at
	}
	data, err := EncodeCommand(c)
	if err != nil {
		l.t.Fatal(err)
	}
	var r *gwv1.Result
	l.State, r, l.touched = l.State.Apply(l.Index()+1, DecodeCommand(data))
	return r
}

func (l *log) ok(c *gwv1.Command) *gwv1.Result {
	l.t.Helper()
	r := l.apply(c)
	if r.GetRefusal() != nil {
		l.t.Fatalf("%T refused: %s", c.Body, r.Refusal.Message)
	}
	return r
}

// refuses checks that a command is refused for a reason, and changes nothing but the index.
func (l *log) refuses(c *gwv1.Command, code gwv1.RefusalCode, reason string) *gwv1.Refusal {
	l.t.Helper()
	before := l.State
	r := l.apply(c)
	if r.GetRefusal() == nil {
		l.t.Fatalf("%T was accepted, want a refusal: %s", c.Body, reason)
	}
	if r.Refusal.Code != code || r.Refusal.Detail.GetReason() != reason || r.Refusal.Message == "" {
		l.t.Errorf("refused with %v %q (%s), want %v %q", r.Refusal.Code, r.Refusal.Detail.GetReason(), r.Refusal.Message, code, reason)
	}
	if !before.At(l.Index()).Equal(l.State) {
		l.t.Error("the refused command changed something")
	}
	return r.Refusal
}

const (
	invalidCode  = gwv1.RefusalCode_REFUSAL_CODE_INVALID
	changedCode  = gwv1.RefusalCode_REFUSAL_CODE_CHANGED
	existsCode   = gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS
	missingCode  = gwv1.RefusalCode_REFUSAL_CODE_NOT_FOUND
	conditionRef = gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION
	deniedCode   = gwv1.RefusalCode_REFUSAL_CODE_DENIED
	tooLargeCode = gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE
)

func TestBatchIsWholeOrNotAtAll(t *testing.T) {
	l := newLog(t)
	r := l.ok(change1(edit("default", "a", "1"), edit("global", "b", "1")))
	if !slices.Equal(r.Versions, []uint64{1, 1}) || len(l.touched) != 2 {
		t.Errorf("versions %v, touched %v", r.Versions, l.touched)
	}
	v := r.Versions[0]
	stale := edit("default", "a", "2")
	stale.ExpectedVersion = v + 7
	l.refuses(change1(edit("default", "c", "1"), stale), changedCode, "changed")
	again := edit("default", "a", "2")
	again.MustNotExist = true
	l.refuses(change1(again), existsCode, "already_exists")
	l.refuses(change1(edit("default", "c", "1"), edit("default", "c", "2")), invalidCode, "invalid")
	wrong := edit("default", "c", "1")
	wrong.Digest = hashOf("other")
	l.refuses(change1(wrong), invalidCode, "invalid")
	l.refuses(change1(), invalidCode, "invalid")
	l.refuses(change1(edit("default", "Bad", "1")), invalidCode, "invalid")
	if _, ok := l.Resource("API", "default", "c"); ok {
		t.Error("half a batch was saved")
	}
	fresh := edit("default", "a", "2")
	fresh.ExpectedVersion = v
	l.ok(change1(fresh, gone("global", "b"), gone("global", "never")))
	if _, ok := l.Resource("API", "global", "b"); ok || len(l.touched) != 2 {
		t.Errorf("b is still there, or touched is %v", l.touched)
	}
}

func TestEqualSpecKeepsItsVersion(t *testing.T) {
	l := newLog(t)
	v := l.ok(change1(edit("default", "a", "1"))).Versions[0]
	was, _ := l.Resource("API", "default", "a")
	audits := len(slices.Collect(l.Audit()))
	r := l.ok(change1(edit("default", "a", "1")))
	if is, _ := l.Resource("API", "default", "a"); r.Versions[0] != v || is != was || len(l.touched) != 0 {
		t.Errorf("version %d, want %d; touched %v", r.Versions[0], v, l.touched)
	}
	if got := len(slices.Collect(l.Audit())); got != audits {
		t.Error("a change that changed nothing is in the audit log")
	}
	e := edit("default", "a", "1")
	e.Labels = map[string]string{"team": "x"}
	if r := l.ok(change1(e)); r.Versions[0] == v {
		t.Error("a new label did not make a version")
	}
	if is, _ := l.Resource("API", "default", "a"); &is.Spec[0] != &was.Spec[0] {
		t.Error("an equal spec was stored a second time")
	}
}

// A staged batch is known again by what is in it: asked once more under its key, however staged, it gives the first result,
// and another batch under that key is refused instead of being taken for it.
func TestStagedBatchIsKnownAgainByItsEdits(t *testing.T) {
	l := newLog(t)
	propose := func(stage string, parts ...[]*gwv1.ResourceEdit) *gwv1.Command {
		c := change1()
		c.Actor, c.IdempotencyKey = "ann", "key"
		c.GetChangeResources().Stage = stage
		for _, edits := range parts {
			part, err := proto.MarshalOptions{Deterministic: true}.Marshal(&gwv1.StagedEdits{Edits: edits})
			if err != nil {
				t.Fatal(err)
			}
			l.ok(&gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: stage, Blobs: [][]byte{part}}}})
			c.GetChangeResources().Staged = append(c.GetChangeResources().Staged, hashOf(string(part)))
		}
		return c
	}
	a, b := edit("default", "a", "1"), edit("default", "b", "2")
	first := l.ok(propose("s", []*gwv1.ResourceEdit{a, b}))
	if again := l.ok(propose("t", []*gwv1.ResourceEdit{a}, []*gwv1.ResourceEdit{b})); again.Index != first.Index {
		t.Errorf("the same batch again came out as %d, want %d", again.Index, first.Index)
	}
	l.refuses(propose("u", []*gwv1.ResourceEdit{edit("default", "c", "3")}), conditionRef, "idempotency_key_reused")
	if _, ok := l.Resource("API", "default", "c"); ok {
		t.Error("what was refused was saved")
	}
}

func TestStagedBatch(t *testing.T) {
	l := newLog(t)
	part := func(names ...string) []byte {
		m := &gwv1.StagedEdits{}
		for _, n := range names {
			m.Edits = append(m.Edits, edit("default", n, "of "+n))
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stage := func(name string, parts ...[]byte) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: name, Blobs: parts}}}
	}
	commit := func(stage string, parts ...[]byte) *gwv1.Command {
		c := change1()
		c.GetChangeResources().Stage = stage
		for _, p := range parts {
			c.GetChangeResources().Staged = append(c.GetChangeResources().Staged, hashOf(string(p)))
		}
		return c
	}
	one, two, three := part("a", "b"), part("c"), part("d")
	l.ok(stage("s", one))
	l.ok(stage("s", two, one))
	l.refuses(commit("s", one, three), conditionRef, "stage_missing")
	l.refuses(commit("other", one), conditionRef, "stage_missing")
	l.refuses(commit("s"), invalidCode, "invalid")
	both := commit("s", one)
	both.GetChangeResources().Edits = []*gwv1.ResourceEdit{edit("default", "x", "1")}
	l.refuses(both, invalidCode, "invalid")
	if r := l.ok(commit("s", one, two)); len(r.Versions) != 3 {
		t.Errorf("versions %v, want three", r.Versions)
	}
	if r, _ := l.Resource("API", "default", "c"); string(r.GetSpec()) != "of c" {
		t.Errorf("saved %q", r.GetSpec())
	}
	if l.totals.stagedBytes != 0 {
		t.Error("the stage was not dropped")
	}
	l.ok(stage("wrong", []byte("no message")))
	l.refuses(commit("wrong", []byte("no message")), invalidCode, "invalid")
	l.ok(stage("late", three))
	l.at += int64(keepStaged) + 1
	l.refuses(commit("late", three), conditionRef, "stage_missing")
	l.ok(stage("other", []byte("x")))
	if l.totals.stagedBytes != 1 {
		t.Errorf("%d bytes staged, want those of the young stage", l.totals.stagedBytes)
	}
}

func TestOverlay(t *testing.T) {
	l := newLog(t)
	l.ok(change1(edit("global", "b", "g"), edit("global", "d", "g"), edit("x", "a", "x"), edit("x", "b", "x"), edit("x", "e", "x")))
	names := func(namespace string) (s string) {
		for r := range l.Effective(namespace) {
			s += r.Name + string(r.Spec) + " "
		}
		return s
	}
	for namespace, want := range map[string]string{"x": "ax bx dg ex ", "default": "bg dg ", "global": "bg dg "} {
		if got := names(namespace); got != want {
			t.Errorf("%s: %q, want %q", namespace, got, want)
		}
	}
	if got := l.Namespaces(); !slices.Equal(got, []string{"default", "x"}) {
		t.Errorf("namespaces %q", got)
	}
}

func TestPush(t *testing.T) {
	l := newLog(t)
	l.ok(change1(edit("global", "g", "1"), edit("x", "a", "1")))
	stale := pushOf(l.State, "x", "default")
	l.ok(change1(edit("x", "a", "2")))
	refusal := l.refuses(stale, changedCode, "changed")
	if v := refusal.Detail.Violations; len(v) != 1 || v[0].Namespace != "x" {
		t.Errorf("violations %v, want x alone", v)
	}
	r := l.ok(pushOf(l.State, "x", "default"))
	if r.Push.Number != 1 || len(r.Push.Namespaces) != 2 || r.Push.Namespaces[0].Created != 2 || !r.Push.Namespaces[1].Released {
		t.Errorf("first push: %v", r.Push)
	}
	r = l.ok(pushOf(l.State, "x", "default"))
	if r.Push.Number != 0 || r.Push.Namespaces[0].Released || r.Push.Namespaces[0].Number != 1 || l.Cluster().PushNumber != 1 {
		t.Errorf("a push of nothing new: %v, next number %d", r.Push, l.Cluster().PushNumber)
	}
	l.ok(change1(edit("x", "a", "3"), edit("x", "b", "1")))
	r = l.ok(pushOf(l.State, "x", "default"))
	x, unchanged := r.Push.Namespaces[0], r.Push.Namespaces[1]
	if r.Push.Number != 2 || x.Created != 1 || x.Updated != 1 || x.Deleted != 0 || unchanged.Released || unchanged.Number != 1 {
		t.Errorf("second push: %v", r.Push)
	}
	if l.ok(pushOf(l.State, "empty")).Push.Namespaces[0].Released == false {
		t.Error("a namespace that has only global's resources got no release")
	}
	target, _ := l.Target("x")
	entry, _ := target.Entry("API", "a")
	if target.Number != 2 || target.Len() != 3 || string(entry.GetSpec()) != "3" || target.Size != 3 || target.CreatedBy != "ann" {
		t.Errorf("target %+v", target)
	}
	old, _ := l.Release("x", 1)
	if e, _ := old.Entry("API", "a"); string(e.GetSpec()) != "2" {
		t.Error("a release changed after it was made")
	}
	l.refuses(pushOf(l.State, "global"), invalidCode, "invalid")
	l.refuses(pushOf(l.State, "x", "x"), invalidCode, "invalid")
	l.refuses(pushOf(l.State), invalidCode, "invalid")
}

func TestPushWantsRemovalConfirmed(t *testing.T) {
	l := newLog(t)
	l.ok(change1(edit("x", "a", "1"), edit("x", "b", "1"), edit("x", "c", "1")))
	l.ok(pushOf(l.State, "x"))
	l.ok(change1(gone("x", "a")))
	l.ok(pushOf(l.State, "x")) // one of three
	l.ok(change1(gone("x", "b"), gone("x", "c")))
	r := l.refuses(pushOf(l.State, "x"), conditionRef, "confirm_removal")
	if !strings.Contains(r.Message, "x would lose 2 of 2") {
		t.Errorf("message %q", r.Message)
	}
	c := pushOf(l.State, "x")
	c.GetPushReleases().ConfirmRemoval = true
	if p := l.ok(c).Push.Namespaces[0]; p.Deleted != 2 || !bytes.Equal(p.Checksum, resource.EmptyChecksum[:]) {
		t.Errorf("pushed %v", p)
	}
	l.ok(change1(edit("x", "only", "1")))
	l.ok(pushOf(l.State, "x"))
	l.ok(change1(gone("x", "only")))
	l.refuses(pushOf(l.State, "x"), conditionRef, "confirm_removal") // the only one is all there is
}

func TestPushIsBounded(t *testing.T) {
	l := newLog(t)
	spec := strings.Repeat("x", 1<<20)
	for i := range 65 {
		l.ok(change1(edit("x", fmt.Sprintf("r%d", i), spec)))
	}
	l.refuses(pushOf(l.State, "x"), tooLargeCode, "too_large")
	l.ok(change1(gone("x", "r0")))
	if p := l.ok(pushOf(l.State, "x")).Push; p.Number != 1 {
		t.Errorf("pushed %v", p)
	}
}

func TestReleasesKept(t *testing.T) {
	l := newLog(t)
	push := func(i int) uint64 {
		l.ok(change1(edit("x", "a", fmt.Sprint(i))))
		return l.ok(pushOf(l.State, "x")).Push.Number
	}
	loaded := push(0)
	l.ok(&gwv1.Command{Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: []*gwv1.EdgeRecord{
		{Id: "e", Namespace: "x", LoadedRelease: loaded},
	}}}})
	last := uint64(0)
	for i := range keepReleases + 5 {
		last = push(i + 1)
	}
	var kept []uint64
	for r := range l.Releases("x") {
		kept = append(kept, r.Number)
	}
	if len(kept) != keepReleases+1 || kept[0] != last || kept[len(kept)-1] != loaded {
		t.Errorf("%d kept, from %d to %d; want the last %d, and %d, which an edge runs", len(kept), kept[0], kept[len(kept)-1], keepReleases, loaded)
	}
}

func TestIdempotency(t *testing.T) {
	l := newLog(t)
	keyed := func(c *gwv1.Command, actor, key string) *gwv1.Command {
		c.Actor, c.IdempotencyKey = actor, key
		return c
	}
	first := l.ok(keyed(putApp(true, "x", "web", "id-1"), "ann", "k"))
	version, audits := l.Cluster().AccessVersion, len(slices.Collect(l.Audit()))
	// A retry is made anew, with another ID; it is the same request.
	again := l.ok(keyed(putApp(true, "x", "web", "id-2"), "ann", "k"))
	if !proto.Equal(first, again) || l.Cluster().AccessVersion != version || len(slices.Collect(l.Audit())) != audits {
		t.Errorf("first %v, again %v", first, again)
	}
	if _, ok := l.AppByID("id-2"); ok {
		t.Error("the repeated command took effect")
	}
	l.refuses(keyed(putApp(true, "x", "other", "id-3"), "ann", "k"), conditionRef, "idempotency_key_reused")
	l.ok(keyed(putApp(true, "x", "bobs", "id-4"), "bob", "k"))
	// A refusal is not remembered: nothing happened that must not happen twice.
	l.refuses(keyed(putToken("t", "nobody"), "ann", "k2"), missingCode, "not_found")
	l.ok(keyed(putToken("t", "id-1"), "ann", "k2"))
	l.at += int64(keepIdempotency) + 1
	l.refuses(keyed(putApp(true, "x", "web", "id-5"), "ann", "k"), existsCode, "already_exists")
	if _, ok := l.Repeated("ann", "k2"); !ok {
		t.Error("a refused command forgot a key")
	}
	l.ok(putSecret("x", "s"))
	if _, ok := l.Repeated("ann", "k2"); ok {
		t.Error("a key is known after 24 h")
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	l := newLog(t)
	l.ok(putSecret("x", "a"))
	now := l.Cluster().Now
	c := putSecret("x", "b")
	c.ProposedAt = 5
	l.ok(c)
	s, _ := l.Secret("x", "b")
	if l.Cluster().Now != now || s.UpdatedAt != now {
		t.Errorf("now %d, saved at %d, want %d", l.Cluster().Now, s.UpdatedAt, now)
	}
}

func TestAppsAndTokens(t *testing.T) {
	l := newLog(t)
	l.ok(putApp(true, "x", "web", "w"))
	l.refuses(putApp(true, "x", "web", "w2"), existsCode, "already_exists")
	l.refuses(putApp(true, "x", "web2", "w"), existsCode, "already_exists")
	l.refuses(putApp(false, "x", "none", ""), missingCode, "not_found")
	l.refuses(putApp(false, "x", "web", "another"), changedCode, "changed")
	l.ok(putToken("t1", "w"))
	l.ok(putToken("t2", "w"))
	l.refuses(putToken("t1", "w"), existsCode, "already_exists")
	l.refuses(putToken("t3", "nobody"), missingCode, "not_found")
	same := putToken("t4", "w")
	same.GetPutToken().Token.Hash = hashOf("t1")
	l.refuses(same, existsCode, "already_exists")
	before := l.Cluster().AccessVersion
	r := l.ok(&gwv1.Command{Body: &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: "t1"}}})
	if r.AccessVersion != l.Index() || l.Cluster().AccessVersion != l.Index() {
		t.Errorf("access version %d at %d", r.AccessVersion, l.Index())
	}
	if again := l.ok(&gwv1.Command{Body: &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: "t1"}}}); again.AccessVersion != r.AccessVersion {
		t.Error("revoking twice made another version")
	}
	update := putApp(false, "x", "web", "")
	update.GetPutApp().App.Targets = []string{"LLM/*"}
	l.ok(update)
	if a, _ := l.AppByID("w"); !slices.Equal(a.GetTargets(), []string{"LLM/*"}) {
		t.Errorf("app %v", a)
	}
	r = l.ok(&gwv1.Command{Body: &gwv1.Command_DeleteApp{DeleteApp: &gwv1.DeleteAppRecord{Namespace: "x", Name: "web"}}})
	if r.RevokedTokens != 1 {
		t.Errorf("%d tokens revoked, want the one that wasn't yet", r.RevokedTokens)
	}
	if _, ok := l.TokenByHash(hashOf("t2")); ok {
		t.Error("a token outlived its app")
	}
	changes, ok := l.AccessSince(before)
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%T", c.Change)[len("*gwv1.AccessChangeRecord_"):])
	}
	if want := []string{"RevokedToken", "ChangedApp", "RevokedToken", "DeletedApp"}; !ok || !slices.Equal(got, want) {
		t.Errorf("changes since: %v %v, want %v", got, ok, want)
	}
	if changes, ok := l.AccessSince(l.Cluster().AccessVersion); !ok || len(changes) != 0 {
		t.Errorf("nothing since: %v, %v", changes, ok)
	}
	if _, ok := l.AccessSince(l.Cluster().AccessVersion + 1); ok {
		t.Error("the future is known")
	}
	last := l.Cluster().AccessVersion
	l.at += int64(keepAccessChanges) + 1
	l.ok(putSecret("x", "s"))
	if _, ok := l.AccessSince(before); ok {
		t.Error("changes of yesterday are told as if they were all kept")
	}
	if changes, ok := l.AccessSince(last); !ok || len(changes) != 1 {
		t.Errorf("since the newest dropped change: %v, %v", changes, ok)
	}
	l.State = reload(t, l.State)
	if _, ok := l.AccessSince(before); ok {
		t.Error("a restored hub forgot what it has forgotten")
	}
}

func TestSecretInUseIsKept(t *testing.T) {
	l := newLog(t)
	l.ok(change1(edit("x", "a", "1", "key")))
	refusal := l.refuses(pushOf(l.State, "x"), conditionRef, "missing_secret")
	if v := refusal.Detail.Violations; len(v) != 1 || v[0].Kind != "API" || v[0].Name != "a" {
		t.Errorf("violations %v", v)
	}
	l.ok(putSecret("global", "key"))
	l.refuses(deleteSecret("global", "key"), conditionRef, "in_use")
	l.ok(pushOf(l.State, "x"))
	v1 := l.ok(putSecret("x", "key")).SecretVersion
	l.ok(deleteSecret("global", "key")) // x has its own
	l.refuses(deleteSecret("x", "key"), conditionRef, "in_use")
	l.ok(change1(edit("x", "a", "2")))
	l.refuses(deleteSecret("x", "key"), conditionRef, "in_use") // the release still names it
	l.ok(pushOf(l.State, "x"))
	l.refuses(deleteSecret("x", "key"), conditionRef, "in_use") // and one could roll back to it
	if v2 := l.ok(putSecret("x", "key")).SecretVersion; v2 <= v1 {
		t.Errorf("version %d after %d", v2, v1)
	}
	l.ok(putSecret("x", "idle"))
	l.ok(deleteSecret("x", "idle"))
	l.refuses(deleteSecret("x", "idle"), missingCode, "not_found")
}

func TestEnrolment(t *testing.T) {
	l := newLog(t)
	join := func(id, namespace string, uses uint32) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
			Id: id, Role: "edge", Namespace: namespace, SecretHash: hashOf(id), ExpiresAt: l.at + int64(time.Hour), MaxUses: uses,
		}}}}
	}
	enroll := func(token, edge, namespace string) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_EnrollEdge{EnrollEdge: &gwv1.EnrollEdge{
			JoinTokenId: token, Edge: &gwv1.EdgeRecord{Id: edge, Namespace: namespace, CertificateNotAfter: l.at + 100},
		}}}
	}
	l.refuses(join("g", "global", 1), invalidCode, "invalid")
	l.ok(join("j", "x", 1))
	l.ok(join("many", "x", 0))
	l.ok(join("elsewhere", "y", 0))
	l.refuses(join("j", "x", 1), existsCode, "already_exists")
	l.refuses(enroll("none", "e", "x"), missingCode, "not_found")
	l.refuses(enroll("j", "e", "y"), deniedCode, "forbidden")
	l.refuses(enroll("j", "e", "global"), invalidCode, "invalid")
	l.ok(enroll("j", "e", "x"))
	l.refuses(enroll("j", "e2", "x"), deniedCode, "token_used_up")
	l.refuses(enroll("elsewhere", "e", "y"), existsCode, "already_exists")
	l.ok(enroll("many", "e", "x"))
	if j, _ := l.JoinToken("many"); j.Uses != 1 {
		t.Errorf("%d uses, want 1", j.Uses)
	}
	before, _ := l.Edge("e")
	update := func(notAfter int64, serial string) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: []*gwv1.EdgeRecord{
			{Id: "e", Namespace: "x", Version: "2", CertificateNotAfter: notAfter, CertificateSerial: serial}, {Id: "new", Namespace: "x"},
		}}}}
	}
	l.ok(update(before.CertificateNotAfter-1, "old"))
	if e, _ := l.Edge("e"); e.CertificateSerial != before.CertificateSerial || e.Version != "2" || e.FirstSeen != before.FirstSeen {
		t.Errorf("a late report of an old certificate: %v", e)
	}
	l.ok(update(before.CertificateNotAfter+1, "newer"))
	if e, _ := l.Edge("e"); e.CertificateSerial != "newer" {
		t.Errorf("a renewed certificate: %v", e)
	}
	if got := len(slices.Collect(l.EdgesIn("x"))); got != 2 {
		t.Errorf("%d edges in x, want 2", got)
	}
	late := enroll("many", "e3", "x")
	late.ProposedAt = l.at + int64(time.Hour)
	l.refuses(late, deniedCode, "token_expired")
	removal := &gwv1.Command{Body: &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: "e"}}}
	l.ok(removal)
	l.refuses(removal, missingCode, "not_found")
	drop := &gwv1.Command{Body: &gwv1.Command_DeleteJoinToken{DeleteJoinToken: &gwv1.DeleteJoinTokenRecord{Id: "j"}}}
	l.ok(drop)
	l.refuses(drop, missingCode, "not_found")
}

func TestPeople(t *testing.T) {
	l := newLog(t)
	user := func(create bool, role string) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{Create: create, User: &gwv1.UserRecord{Name: "ann", Role: role}}}}
	}
	session := func(hash, user string, ends int64) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
			TokenHash: hashOf(hash), User: user, ExpiresAt: ends,
		}}}}
	}
	l.ok(user(true, "admin"))
	l.refuses(user(true, "admin"), existsCode, "already_exists")
	l.refuses(user(false, "king"), invalidCode, "invalid")
	l.refuses(user(false, "viewer"), conditionRef, "last_admin")
	l.refuses(&gwv1.Command{Body: &gwv1.Command_DeleteUser{DeleteUser: &gwv1.DeleteUserRecord{Name: "ann"}}}, conditionRef, "last_admin")
	l.ok(&gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{Create: true, User: &gwv1.UserRecord{Name: "root", Role: "admin"}}}})
	l.ok(user(false, "viewer"))
	l.ok(user(false, "")) // what is left empty stays
	l.refuses(session("a", "bob", l.at+1), missingCode, "not_found")
	l.refuses(session("a", "ann", l.at), invalidCode, "invalid")
	l.ok(session("a", "ann", l.at+1))
	l.refuses(session("a", "ann", l.at+9), existsCode, "already_exists")
	l.at += 2
	l.ok(session("b", "ann", l.at+9))
	if _, ok := l.Session(hashOf("a")); ok {
		t.Error("an ended session is kept")
	}
	if u, _ := l.User("ann"); u.GetRole() != "viewer" {
		t.Errorf("user %v", u)
	}
	out := &gwv1.Command{Body: &gwv1.Command_DeleteSession{DeleteSession: &gwv1.DeleteSessionRecord{TokenHash: hashOf("b")}}}
	l.ok(out)
	l.ok(out)
	if _, ok := l.Session(hashOf("b")); ok {
		t.Error("signed out, and still there")
	}
}

func TestANewPasswordAndADeletionEndAUsersSessions(t *testing.T) {
	l := newLog(t)
	put := func(u *gwv1.UserRecord) {
		t.Helper()
		l.ok(&gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: u}}})
	}
	signIn := func(hash, user string) {
		t.Helper()
		l.ok(&gwv1.Command{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
			TokenHash: hashOf(hash), User: user, ExpiresAt: l.at + int64(time.Hour),
		}}}})
	}
	there := func(hash string) bool {
		_, ok := l.Session(hashOf(hash))
		return ok
	}
	put(&gwv1.UserRecord{Name: "root", Role: "admin", PasswordHash: "$r"})
	put(&gwv1.UserRecord{Name: "bob", Role: "operator", PasswordHash: "$1", Namespaces: []string{"a"}})
	signIn("r", "root")
	signIn("b", "bob")
	put(&gwv1.UserRecord{Name: "bob", Role: "viewer"})
	if u, _ := l.User("bob"); u.Role != "viewer" || u.PasswordHash != "$1" || len(u.Namespaces) != 0 || !there("b") {
		t.Errorf("another role: %v, signed in: %v", u, there("b"))
	}
	put(&gwv1.UserRecord{Name: "bob", PasswordHash: "$2"})
	if u, _ := l.User("bob"); u.Role != "viewer" || u.PasswordHash != "$2" || there("b") || !there("r") {
		t.Errorf("another password: %v, signed in: %v, the other: %v", u, there("b"), there("r"))
	}
	signIn("b2", "bob")
	l.ok(&gwv1.Command{Body: &gwv1.Command_DeleteUser{DeleteUser: &gwv1.DeleteUserRecord{Name: "bob"}}})
	if _, ok := l.User("bob"); ok || there("b2") || !there("r") {
		t.Errorf("deleted: there %v, signed in: %v, the other: %v", ok, there("b2"), there("r"))
	}
	l.refuses(&gwv1.Command{Body: &gwv1.Command_DeleteUser{DeleteUser: &gwv1.DeleteUserRecord{Name: "bob"}}}, missingCode, "not_found")
}

func TestClusterCommands(t *testing.T) {
	l := newLog(t)
	found := &gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c"}}}
	l.ok(found)
	l.refuses(found, existsCode, "already_exists")
	open := func(term uint64) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_OpenTerm{OpenTerm: &gwv1.OpenTerm{Term: term, NodeId: "n"}}}
	}
	l.ok(open(3))
	l.refuses(open(3), changedCode, "changed")
	l.refuses(open(2), changedCode, "changed")
	if c := l.Cluster(); c.ClusterId != "c" || c.Epoch != 1 || c.FeatureLevel != FeatureLevel || c.OpenTerm != 3 {
		t.Errorf("cluster %v", c)
	}
}

func TestAuditSaysWhoDidWhat(t *testing.T) {
	l := newLog(t)
	l.ok(change1(edit("x", "a", "1"), edit("x", "b", "1")))
	l.ok(pushOf(l.State, "x"))
	var got []string
	for r := range l.Audit() {
		got = append(got, fmt.Sprintf("%d %s %s %s %s", r.Index, r.Actor, r.Action, r.Object, r.Namespace))
	}
	if want := []string{"2 ann push push/1 x", "1 ann apply API/a and 1 more x"}; !slices.Equal(got, want) {
		t.Errorf("audit %q, want %q", got, want)
	}
	for range maxAudit + 3 {
		l.ok(putSecret("x", "s"))
	}
	records := slices.Collect(l.Audit())
	if len(records) != maxAudit || records[0].Index != l.Index() {
		t.Errorf("%d records, newest %d", len(records), records[0].Index)
	}
}

func TestCommandsOfANewerVersion(t *testing.T) {
	l := newLog(t)
	l.ok(putSecret("x", "s"))
	before := l.State
	newer := &gwv1.Command{FeatureLevel: FeatureLevel + 1, Body: putSecret("x", "t").Body}
	if r := l.apply(newer); r != nil || l.State != before {
		t.Errorf("a command of a later level gave %v", r)
	}
	newer.Skippable = true
	if r := l.apply(newer); r.GetRefusal().GetDetail().GetReason() != "skipped" || l.Cluster().SkippedCommands != 1 {
		t.Errorf("a skippable command gave %v", r)
	}
	field := putSecret("x", "u")
	field.GetPutSecret().Secret.ProtoReflect().SetUnknown([]byte{0xf8, 0x06, 1})
	before = l.State
	if r := l.apply(field); r != nil || l.State != before {
		t.Errorf("a command with an unknown field gave %v", r)
	}
}

// Apply is total: no bytes in the log make it panic or leave a state that can't be restored.
func FuzzApply(f *testing.F) {
	s := rich(f)
	h := newHistory(5)
	for range 200 {
		data, err := EncodeCommand(h.next(s))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := DecodeCommand(data)
		next, r, _ := s.Apply(s.Index()+1, c)
		again, r2, _ := s.Apply(s.Index()+1, DecodeCommand(data))
		once := encode(t, next)
		if !proto.Equal(r, r2) || !bytes.Equal(once, encode(t, again)) {
			t.Fatal("the same command gave something else")
		}
		if r == nil && (next != s || Known(c) == nil) {
			t.Fatal("a command without result changed the state, or is known")
		}
		checkState(t, next)
		if _, err := Decode(bytes.NewReader(once)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFingerprintIgnoresWhatAProposerMakes(t *testing.T) {
	sum := func(c *gwv1.Command) [sha256.Size]byte { return fingerprintOf(c) }
	if sum(putToken("a", "w")) != sum(putToken("b", "w")) || sum(putToken("a", "w")) == sum(putToken("a", "v")) {
		t.Error("tokens")
	}
	a, b := putSecret("x", "s"), putSecret("x", "s")
	b.GetPutSecret().Secret.Sealed = []byte("another nonce")
	if sum(a) != sum(b) || sum(a) == sum(putSecret("x", "t")) {
		t.Error("secrets")
	}
	pruned := change1(edit("x", "a", "1"), gone("x", "b"))
	if sum(pruned) != sum(change1(edit("x", "a", "1"))) || sum(change1(gone("x", "b"))) == sum(change1(gone("x", "c"))) {
		t.Error("batches")
	}
}
