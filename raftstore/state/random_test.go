package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// history makes commands at random that are mostly, but not always, accepted.
type history struct {
	rng  *rand.Rand
	made int
	now  int64
	last *gwv1.Command // to be repeated
	// staged are the parts that a batch can be committed from.
	staged [][]byte
}

func newHistory(seed uint64) *history {
	return &history{rng: rand.New(rand.NewPCG(seed, 7)), now: int64(time.Hour)}
}

func (h *history) pick(from ...string) string { return from[h.rng.IntN(len(from))] }

func (h *history) id(kind string) string {
	h.made++
	return fmt.Sprintf("%s-%d", kind, h.made)
}

func (h *history) namespace() string { return h.pick("default", "team", "a", "a.b", "NO") }
func (h *history) layer() string     { return h.pick(resource.Global, "default", "team", "a", "a.b") }
func (h *history) name() string      { return h.pick("one", "two", "three", "four") }

func hashOf(s string) []byte {
	d := sha256.Sum256([]byte(s))
	return d[:]
}

// next is a command for s.
func (h *history) next(s *State) *gwv1.Command {
	h.now += h.rng.Int64N(int64(10 * time.Minute))
	if h.rng.IntN(200) == 0 {
		h.now += int64(30 * time.Hour)
	}
	if h.last != nil && h.rng.IntN(15) == 0 {
		return h.last
	}
	c := &gwv1.Command{FeatureLevel: 1, Actor: h.pick("ann", "bob"), ActorAddress: "10.0.0.1", ProposedAt: h.now - h.rng.Int64N(int64(time.Minute))}
	if h.rng.IntN(4) == 0 {
		c.IdempotencyKey = h.pick("k1", "k2", h.id("key"))
	}
	makers := []func(*State, *gwv1.Command){
		h.resources, h.resources, h.resources, h.resources, h.push, h.push, h.push, h.rollback, h.freeze, h.apps, h.apps, h.tokens, h.tokens,
		h.secrets, h.edges, h.edges, h.people, h.cluster, h.hubs, h.hubs, h.plugins, h.plugins,
	}
	makers[h.rng.IntN(len(makers))](s, c)
	h.last = c
	return c
}

func (h *history) resources(s *State, c *gwv1.Command) {
	m := &gwv1.ChangeResources{}
	for range 1 + h.rng.IntN(4) {
		kind, name := h.pick("API", "LLM"), h.name()
		spec := []byte(fmt.Sprintf("v%d", h.rng.IntN(5)))
		d := resource.DigestOf(kind, name, spec)
		e := &gwv1.ResourceEdit{Kind: kind, Namespace: h.layer(), Name: name, Digest: d[:], Spec: spec}
		switch old, there := s.Resource(e.Kind, e.Namespace, e.Name); h.rng.IntN(10) {
		case 0, 1:
			e.Delete, e.Spec, e.Digest = true, nil, nil
		case 2:
			secret := h.name() // the spec says which: equal specs name equal secrets
			e.Secrets, e.Spec = []string{secret}, []byte("secret "+secret)
			d = resource.DigestOf(kind, name, e.Spec)
		case 3:
			e.Labels = map[string]string{"a": h.name(), "b": "x", "c": "y"}
		case 4:
			e.MustNotExist = true
		case 5:
			if there {
				e.ExpectedVersion = old.Version
			}
		case 6:
			e.ExpectedVersion = uint64(h.rng.IntN(50))
		case 8:
			e.OutsideReleases = true
		}
		m.Edits = append(m.Edits, e)
	}
	switch h.rng.IntN(6) {
	case 0: // staged, to be committed by the next but one
		part, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&gwv1.StagedEdits{Edits: m.Edits})
		h.staged = append(h.staged, part)
		c.Body = &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: "s1", Blobs: [][]byte{part}}}
		return
	case 1:
		if len(h.staged) > 0 {
			m = &gwv1.ChangeResources{Stage: "s1"}
			for _, part := range h.staged[h.rng.IntN(len(h.staged)):] {
				m.Staged = append(m.Staged, hashOf(string(part)))
			}
			h.staged = nil
		}
	}
	c.Body = &gwv1.Command_ChangeResources{ChangeResources: m}
}

func checksumOf(s *State, namespace string) []byte {
	d := resource.Checksum(func(yield func(resource.Entry) bool) {
		for r := range s.Effective(namespace) {
			d, _ := resource.AsDigest(r.Digest)
			if !yield(resource.Entry{Kind: r.Kind, Name: r.Name, Digest: d}) {
				return
			}
		}
	})
	return d[:]
}

func (h *history) push(s *State, c *gwv1.Command) {
	m := &gwv1.PushReleases{Note: h.pick("", "monday"), ConfirmRemoval: h.rng.IntN(3) > 0, BreakGlass: h.rng.IntN(2) > 0}
	for _, n := range s.Namespaces() {
		if h.rng.IntN(3) > 0 {
			m.Namespaces = append(m.Namespaces, &gwv1.NamespaceChecksum{Namespace: n, Checksum: checksumOf(s, n)})
		}
	}
	if len(m.Namespaces) > 0 && h.rng.IntN(8) == 0 {
		m.Namespaces[0].Checksum = hashOf("another")
	}
	c.Body = &gwv1.Command_PushReleases{PushReleases: m}
}

func (h *history) rollback(s *State, c *gwv1.Command) {
	m := &gwv1.RollbackReleases{Note: h.pick("", "oh no"), To: uint64(h.rng.IntN(5)), ConfirmRemoval: h.rng.IntN(3) > 0, BreakGlass: h.rng.IntN(2) > 0}
	for _, n := range s.Namespaces() {
		kept := slices.Collect(s.Releases(n))
		if len(kept) == 0 || h.rng.IntN(3) == 0 {
			continue
		}
		source := kept[h.rng.IntN(len(kept))]
		m.Namespaces = append(m.Namespaces, &gwv1.RollbackNamespace{Namespace: n, Source: source.Number, Checksum: source.Checksum[:], Target: kept[0].Number})
	}
	if len(m.Namespaces) > 0 && h.rng.IntN(8) == 0 {
		m.Namespaces[0].Target++
	}
	c.Body = &gwv1.Command_RollbackReleases{RollbackReleases: m}
}

func (h *history) freeze(_ *State, c *gwv1.Command) {
	var scope []string
	if h.rng.IntN(3) > 0 {
		scope = []string{h.namespace()}
	}
	if h.rng.IntN(3) == 0 {
		c.Body = &gwv1.Command_FreezePushes{FreezePushes: &gwv1.FreezePushes{Namespaces: scope, Reason: h.pick("", "audit")}}
		return
	}
	c.Body = &gwv1.Command_UnfreezePushes{UnfreezePushes: &gwv1.UnfreezePushes{Namespaces: scope}}
}

func (h *history) apps(s *State, c *gwv1.Command) {
	if h.rng.IntN(4) == 0 {
		c.Body = &gwv1.Command_DeleteApp{DeleteApp: &gwv1.DeleteAppRecord{Namespace: h.layer(), Name: h.name()}}
		return
	}
	m := &gwv1.PutAppRecord{Create: h.rng.IntN(2) == 0, App: &gwv1.AppRecord{
		Namespace: h.layer(), Name: h.name(), Owner: h.pick("", "ann"), Targets: []string{"API/" + h.name()}, CreatedAt: h.now,
	}}
	if m.Create {
		m.App.Id = h.id("app")
	}
	c.Body = &gwv1.Command_PutApp{PutApp: m}
}

func (h *history) tokens(s *State, c *gwv1.Command) {
	tokens := slices.Collect(s.Tokens(""))
	if len(tokens) > 0 && h.rng.IntN(3) == 0 {
		c.Body = &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: tokens[h.rng.IntN(len(tokens))].Id}}
		return
	}
	apps := slices.Collect(s.Apps(""))
	t := &gwv1.TokenRecord{Id: h.id("token"), AppId: "nobody", Hash: hashOf(h.id("credential")), Hint: "gw_ab", CreatedAt: h.now}
	if len(apps) > 0 {
		t.AppId = apps[h.rng.IntN(len(apps))].Id
	}
	c.Body = &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{Token: t}}
}

func (h *history) secrets(s *State, c *gwv1.Command) {
	if h.rng.IntN(3) == 0 {
		c.Body = &gwv1.Command_DeleteSecret{DeleteSecret: &gwv1.DeleteSecretRecord{Namespace: h.layer(), Name: h.name()}}
		return
	}
	c.Body = &gwv1.Command_PutSecret{PutSecret: &gwv1.PutSecretRecord{Secret: &gwv1.SecretRecord{
		Namespace: h.layer(), Name: h.name(), Sealed: []byte(h.id("sealed")),
	}}}
}

func (h *history) edges(s *State, c *gwv1.Command) {
	e := &gwv1.EdgeRecord{
		Id: h.pick("e1", "e2", "e3", "e4"), Namespace: h.namespace(), Version: h.pick("1", "2"), SchemaLevel: uint32(h.rng.IntN(3)),
		CertificateSerial: h.id("serial"), CertificateNotAfter: h.now + h.rng.Int64N(int64(time.Hour)),
	}
	if t, ok := s.Target(e.Namespace); ok {
		e.LoadedRelease, e.LoadedEpoch, e.LoadedChecksum = t.Number, t.Epoch, t.Checksum[:]
		if h.rng.IntN(3) == 0 {
			e.LoadedRelease--
			e.Failure = &gwv1.LoadFailure{Epoch: t.Epoch, Release: t.Number, Code: h.pick("compile", "fetch"), Message: "no"}
		}
	}
	e.Lineage = s.Stamp()
	tokens := slices.Collect(s.JoinTokens())
	switch h.rng.IntN(9) {
	case 0:
		c.Body = &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
			Id: h.id("join"), Role: "edge", Namespace: h.namespace(), SecretHash: hashOf("x"), Labels: map[string]string{"x": "y", "z": "w"},
			ExpiresAt: h.now + int64(time.Hour), MaxUses: uint32(h.rng.IntN(3)),
		}}}
	case 1, 2:
		m := &gwv1.EnrollEdge{JoinTokenId: "nobody", Edge: e}
		if len(tokens) > 0 {
			t := tokens[h.rng.IntN(len(tokens))]
			m.JoinTokenId, e.Namespace = t.Id, t.Namespace
		}
		c.Body = &gwv1.Command_EnrollEdge{EnrollEdge: m}
	case 3:
		c.Body = &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: e.Id}}
	case 5:
		c.Body = &gwv1.Command_RevokeEdge{RevokeEdge: &gwv1.RevokeEdgeRecord{Id: e.Id}}
	case 6:
		c.Body = &gwv1.Command_RetryEdge{RetryEdge: &gwv1.RetryEdgeRecord{Id: e.Id}}
	case 7:
		c.Body = &gwv1.Command_LabelEdge{LabelEdge: &gwv1.LabelEdgeRecord{Id: e.Id, Set: map[string]string{"a": h.name(), "b": "1"}, Remove: []string{"x"}}}
	case 4:
		m := &gwv1.DeleteJoinTokenRecord{Id: "nobody"}
		if len(tokens) > 3 {
			m.Id = tokens[0].Id
		}
		c.Body = &gwv1.Command_DeleteJoinToken{DeleteJoinToken: m}
	default:
		c.Body = &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: []*gwv1.EdgeRecord{e}}}
	}
}

func (h *history) hubs(s *State, c *gwv1.Command) {
	hub := &gwv1.HubRecord{Id: h.pick("h1", "h2", "h3", h.id("hub")), Address: h.pick("a:1", "b:1"), Version: h.pick("1", "2")}
	switch h.rng.IntN(8) {
	case 0:
		c.Body = &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
			Id: h.id("join"), Role: "hub", SecretHash: hashOf("x"), ExpiresAt: h.now + int64(time.Hour), MaxUses: uint32(h.rng.IntN(3)),
		}}}
	case 1, 2, 3:
		m := &gwv1.EnrollHub{JoinTokenId: "nobody", Hub: hub}
		for t := range s.JoinTokens() {
			if t.Role == "hub" {
				m.JoinTokenId = t.Id
			}
		}
		c.Body = &gwv1.Command_EnrollHub{EnrollHub: m}
	case 4, 5:
		c.Body = &gwv1.Command_PutHub{PutHub: &gwv1.PutHubRecord{Hub: hub}}
	case 6:
		c.Body = &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: hub.Id}}
	default:
		c.Body = &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}
	}
}

func (h *history) people(s *State, c *gwv1.Command) {
	switch h.rng.IntN(4) {
	case 3:
		c.Body = &gwv1.Command_DeleteUser{DeleteUser: &gwv1.DeleteUserRecord{Name: h.pick("ann", "bob")}}
	case 0:
		c.Body = &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{Create: h.rng.IntN(2) == 0, User: &gwv1.UserRecord{
			Name: h.pick("ann", "bob"), PasswordHash: "$argon2id$…", Role: h.pick("viewer", "admin", "king", ""), CreatedAt: h.now,
		}}}
	case 1:
		c.Body = &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
			TokenHash: hashOf(h.pick("t1", "t2", h.id("session"))), User: h.pick("ann", "bob"), ExpiresAt: h.now + h.rng.Int64N(int64(time.Hour)),
		}}}
	default:
		c.Body = &gwv1.Command_DeleteSession{DeleteSession: &gwv1.DeleteSessionRecord{TokenHash: hashOf(h.pick("t1", "t2"))}}
	}
}

func (h *history) plugins(s *State, c *gwv1.Command) {
	plugin := uint32(h.rng.IntN(3)) // 0 is refused
	write := &gwv1.PluginKVWrite{PluginId: plugin, Key: h.name(), Value: []byte(h.id("value")), Delete: h.rng.IntN(4) == 0}
	if h.rng.IntN(3) == 0 {
		write.ExpiresAt = h.now + h.rng.Int64N(int64(time.Hour)) - int64(time.Minute)
	}
	letters := slices.Collect(s.DeadLetters())
	switch h.rng.IntN(6) {
	case 0:
		c.Body = &gwv1.Command_ChangePluginKv{ChangePluginKv: &gwv1.ChangePluginKV{Writes: []*gwv1.PluginKVWrite{write}}}
	case 1:
		m := &gwv1.OrderDeadLetters{Ids: []string{"nobody"}, Redeliver: h.rng.IntN(2) == 0}
		if len(letters) > 0 {
			m.Ids[0] = letters[h.rng.IntN(len(letters))].Id
		}
		c.Body = &gwv1.Command_OrderDeadLetters{OrderDeadLetters: m}
	case 2:
		m := &gwv1.ResolveDeadLetters{EdgeId: h.pick("e1", "e2")}
		for _, l := range letters {
			switch h.rng.IntN(4) {
			case 0:
				m.Done = append(m.Done, l.Id)
			case 1:
				m.Gone = append(m.Gone, l.Id)
			}
		}
		c.Body = &gwv1.Command_ResolveDeadLetters{ResolveDeadLetters: m}
	default:
		store := hashOf(h.pick("s1", "s2"))[:storeIDLength]
		mark := &gwv1.SettledMark{StoreId: store, PluginId: plugin, EdgeId: h.pick("e1", "e2"), Namespace: "default", Handled: 1, After: s.PluginMark(store, plugin)}
		mark.Sequence = mark.After + uint64(h.rng.IntN(3))
		m := &gwv1.SettlePayloads{Marks: []*gwv1.SettledMark{mark}, Writes: []*gwv1.PluginKVWrite{write}}
		if r, ok := s.PluginKV(plugin, write.Key, h.now); ok {
			m.Reads = append(m.Reads, &gwv1.PluginKVRead{PluginId: plugin, Key: write.Key, Version: r.Version})
		}
		if h.rng.IntN(3) == 0 {
			mark.LastError = h.pick("", "oh no")
			m.DeadLetters = append(m.DeadLetters, &gwv1.DeadLetterRecord{Id: h.id("letter"), StoreId: store, PluginId: plugin, Sequence: mark.Sequence,
				EdgeId: mark.EdgeId, Namespace: mark.Namespace, Metadata: map[string]string{"a": "1", "b": "2"}, State: DeadLetterHeld})
		}
		c.Body = &gwv1.Command_SettlePayloads{SettlePayloads: m}
	}
}

func (h *history) cluster(s *State, c *gwv1.Command) {
	switch h.rng.IntN(5) {
	case 4:
		c.Body = &gwv1.Command_RaiseEpoch{RaiseEpoch: &gwv1.RaiseEpoch{AtLeast: uint64(h.rng.IntN(5))}}
	case 0:
		c.Body = &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c", CaCertificate: []byte("der"), SealedCaKey: []byte("key")}}
	case 1:
		c.FeatureLevel, c.Skippable = FeatureLevel+1, true
	default:
		c.Body = &gwv1.Command_OpenTerm{OpenTerm: &gwv1.OpenTerm{Term: uint64(h.rng.IntN(40)), NodeId: "n", Version: "1"}}
	}
}

// Equal reports whether both write the same snapshot.
func (s *State) Equal(o *State) bool {
	var a, b bytes.Buffer
	return s.Encode(&a) == nil && o.Encode(&b) == nil && bytes.Equal(a.Bytes(), b.Bytes())
}

func encode(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reload(t testing.TB, s *State) *State {
	t.Helper()
	again, err := Decode(bytes.NewReader(encode(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// A hub that restarts at any point ends like one that never did: the same results, the same bytes, and the same sums.
func TestRestoringEqualsNeverRestarting(t *testing.T) {
	accepted := map[string]int{}
	for seed := range uint64(24) {
		h := newHistory(seed)
		a, b := New(), New()
		for index := uint64(1); index <= 400; index++ {
			c := h.next(a)
			data, err := EncodeCommand(c)
			if err != nil {
				t.Fatal(err)
			}
			was := a
			var ra, rb *gwv1.Result
			a, ra, _ = a.Apply(index, DecodeCommand(data))
			b, rb, _ = b.Apply(index, DecodeCommand(data))
			if !proto.Equal(ra, rb) {
				t.Fatalf("seed %d, entry %d: one answers %v, the other %v", seed, index, ra, rb)
			}
			if ra.Refusal == nil {
				accepted[fmt.Sprintf("%T", c.Body)]++
			} else if c.Body != nil && index%8 == 0 && !was.At(index).Equal(a) {
				t.Fatalf("seed %d, entry %d: refused (%s), but something changed", seed, index, ra.Refusal.Message)
			}
			if index%5 == 0 {
				checkState(t, a)
			}
			if h.rng.IntN(20) == 0 {
				b = reload(t, b)
				if b.totals != a.totals {
					t.Fatalf("seed %d, entry %d: sums %+v, restored %+v", seed, index, a.totals, b.totals)
				}
			}
		}
		if !bytes.Equal(encode(t, a), encode(t, b)) || !a.Equal(b) {
			t.Fatalf("seed %d: the states differ", seed)
		}
	}
	for i := range (&gwv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields().Len() {
		f := (&gwv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields().Get(i)
		c := &gwv1.Command{}
		c.ProtoReflect().Set(f, c.ProtoReflect().NewField(f))
		if name := fmt.Sprintf("%T", c.Body); accepted[name] == 0 {
			t.Errorf("%s was never accepted: the history does not test it", name)
		}
	}
}

// checkState checks what holds in every state.
func checkState(t *testing.T, s *State) {
	t.Helper()
	if got := count(s.db.Txn(false)); got != s.totals {
		t.Fatalf("sums %+v, counted %+v", s.totals, got)
	}
	want := map[string]bool{resource.Default: true}
	for r := range s.Resources("") {
		want[r.Namespace] = true
	}
	for r := range s.Releases("") {
		want[r.Namespace] = true
	}
	for r := range s.Apps("") {
		want[r.Namespace] = true
	}
	for r := range s.Secrets("") {
		want[r.Namespace] = true
	}
	for r := range s.JoinTokens() {
		want[r.Namespace] = true
	}
	for r := range s.Edges() {
		want[r.Namespace] = true
		if n := len(s.Timeline(r.Id)); n == 0 || n > maxTimeline {
			t.Fatalf("the timeline of %s has %d entries", r.Id, n)
		}
	}
	delete(want, resource.Global)
	delete(want, "") // join tokens for hubs
	got := s.Namespaces()
	if len(got) != len(want) || !slices.IsSorted(got) {
		t.Fatalf("namespaces %q, want %v", got, want)
	}
	for _, n := range got {
		if !want[n] {
			t.Fatalf("namespace %q, want %v", n, want)
		}
		if r, ok := s.Target(n); ok && resource.Checksum(manifestOf(r.Entries())) != r.Checksum {
			t.Fatalf("release %d of %s does not match its checksum", r.Number, n)
		}
		for r := range s.Effective(n) {
			if r.OutsideReleases {
				t.Fatalf("%s/%s is in the effective configuration of %s, and outside of releases", r.Kind, r.Name, n)
			}
		}
		if !slices.IsSortedFunc(slices.Collect(s.Effective(n)), func(a, b *gwv1.ResourceRecord) int {
			return compareNames(a.Kind, a.Name, b.Kind, b.Name)
		}) {
			t.Fatalf("effective configuration of %s is out of order", n)
		}
	}
	for tk := range s.Tokens("") {
		if _, ok := s.AppByID(tk.AppId); !ok {
			t.Fatalf("token %s of no app", tk.Id)
		}
		if found, ok := s.TokenByHash(tk.Hash); !ok || found != tk {
			t.Fatalf("token %s is not found by its hash", tk.Id)
		}
	}
}
