package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gw/rpc/gwv1"
)

// rich is a state with a record in every table.
func rich(t testing.TB) *State {
	t.Helper()
	h, s := newHistory(3), New()
	for index := uint64(1); index < 5000; index++ {
		c := h.next(s)
		data, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		s, _, _ = s.Apply(index, DecodeCommand(data))
		if full(s) && s.accessFloor > 0 {
			return s
		}
	}
	t.Fatal("no history fills every table")
	return nil
}

func full(s *State) bool {
	tx := s.db.Txn(false)
	for _, x := range tables {
		if o, err := tx.First(x.name, byID+"_prefix", []byte(nil)); err != nil || o == nil {
			return false
		}
	}
	return true
}

// Whatever the log's schema calls a record is in a table or in the header, and no two tables share a number.
func TestEveryRecordIsInASnapshot(t *testing.T) {
	kept := map[protoreflect.Name]bool{"ClusterRecord": true, "ReleaseRecord": true}
	numbers := map[byte]string{recordHeader: "header", recordFloor: "floor", recordEnd: "end"}
	s := rich(t)
	for _, x := range tables {
		if other, taken := numbers[x.record]; taken {
			t.Errorf("%s and %s have the number %d", x.name, other, x.record)
		}
		numbers[x.record] = x.name
		if x.decode == nil {
			continue
		}
		m := anyOf(t, s, x.name)
		kept[m.ProtoReflect().Descriptor().Name()] = true
	}
	commands := map[protoreflect.Name]bool{}
	fields := (&gwv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		commands[fields.Get(i).Message().Name()] = true
	}
	messages := gwv1.File_gw_v1_log_proto.Messages()
	for i := range messages.Len() {
		n := messages.Get(i).Name()
		if (strings.HasSuffix(string(n), "Record") || n == "StagedBlob") && !commands[n] && !kept[n] {
			t.Errorf("%s is in no table", n)
		}
	}
	if len(New().db.DBSchema().Tables) != len(tables) {
		t.Error("the schema has other tables than the snapshot")
	}
	// What State has besides tables; a new field must be added to Encode and Decode, and then here.
	var names []string
	for i := range reflect.TypeFor[State]().NumField() {
		names = append(names, reflect.TypeFor[State]().Field(i).Name)
	}
	if got := fmt.Sprint(names); got != "[index cluster accessFloor db totals]" {
		t.Errorf("State has the fields %s", got)
	}
}

func anyOf(t *testing.T, s *State, table string) proto.Message {
	t.Helper()
	for m := range list[proto.Message](s.db.Txn(false), table, byID, nil) {
		return m
	}
	t.Fatalf("%s is empty", table)
	return nil
}

func TestSnapshotKeepsEverything(t *testing.T) {
	s := rich(t)
	again := reload(t, s)
	if !s.Equal(again) || again.totals != s.totals || again.Index() != s.Index() || again.accessFloor != s.accessFloor {
		t.Error("restored state differs")
	}
	for r := range s.Releases("") {
		got, ok := again.Release(r.Namespace, r.Number)
		if !ok {
			t.Fatalf("release %d of %s is lost", r.Number, r.Namespace)
		}
		a, b := reflect.ValueOf(*r), reflect.ValueOf(*got)
		for i := range a.NumField() {
			f := a.Type().Field(i)
			if f.IsExported() && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
				t.Errorf("release %d of %s: %s is %v, restored %v", r.Number, r.Namespace, f.Name, a.Field(i), b.Field(i))
			}
		}
		if fmt.Sprint(r.secrets) != fmt.Sprint(got.secrets) || r.Len() != got.Len() {
			t.Errorf("release %d of %s: %d entries and %v, restored %d and %v", r.Number, r.Namespace, r.Len(), r.secrets, got.Len(), got.secrets)
		}
	}
}

// The bytes are part of what hubs compare and backups hold: a change of this sum is a change of the format.
func TestSnapshotBytesAreFixed(t *testing.T) {
	h, s := newHistory(11), New()
	for index := uint64(1); index <= 300; index++ {
		data, err := EncodeCommand(h.next(s))
		if err != nil {
			t.Fatal(err)
		}
		s, _, _ = s.Apply(index, DecodeCommand(data))
	}
	sum := sha256.Sum256(encode(t, s))
	if got, want := hex.EncodeToString(sum[:8]), "b9f549e89a7b1202"; got != want {
		t.Errorf("SHA-256 begins with %s, want %s", got, want)
	}
}

func TestDamagedSnapshotsAreRefused(t *testing.T) {
	whole := encode(t, rich(t))
	for _, cut := range []int{0, 1, len(magic), len(magic) + 1, len(whole) / 2, len(whole) - 33, len(whole) - 32, len(whole) - 1} {
		if _, err := Decode(bytes.NewReader(whole[:cut])); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d of %d bytes: %v", cut, len(whole), err)
		}
	}
	if _, err := Decode(bytes.NewReader(append(bytes.Clone(whole), 0))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("one byte more: %v", err)
	}
	for i := 0; i < len(whole); i += 1 + len(whole)/300 {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		if s, err := Decode(bytes.NewReader(flipped)); err == nil || s != nil {
			t.Errorf("a bit flipped in byte %d was not seen", i)
		}
	}
}

// sealed makes a snapshot of frames, with a trailer that is right.
func sealed(frames []byte) []byte {
	b := append([]byte(magic), frames...)
	sum := sha256.Sum256(b)
	return append(append(b, recordEnd), sum[:]...)
}

func frameOf(t testing.TB, record byte, m proto.Message) []byte {
	t.Helper()
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.AppendUvarint([]byte{record}, uint64(len(payload))), payload...)
}

func TestSnapshotsOfANewerVersionAreRefused(t *testing.T) {
	header := frameOf(t, recordHeader, &gwv1.SnapshotHeader{Format: format, Cluster: &gwv1.ClusterRecord{}, Index: 4})
	if _, err := Decode(bytes.NewReader(sealed(header))); err != nil {
		t.Fatalf("an empty state: %v", err)
	}
	user := &gwv1.UserRecord{Name: "ann", Role: "admin"}
	newer := proto.CloneOf(user)
	newer.ProtoReflect().SetUnknown([]byte{0xf8, 0x06, 1}) // field 111
	for name, frames := range map[string][]byte{
		"record":  append(bytes.Clone(header), frameOf(t, 99, user)...),
		"field":   append(bytes.Clone(header), frameOf(t, 9, newer)...),
		"format":  frameOf(t, recordHeader, &gwv1.SnapshotHeader{Format: format + 1, Cluster: &gwv1.ClusterRecord{}}),
		"feature": frameOf(t, recordHeader, &gwv1.SnapshotHeader{Format: format, Cluster: &gwv1.ClusterRecord{FeatureLevel: FeatureLevel + 1}}),
	} {
		if _, err := Decode(bytes.NewReader(sealed(frames))); !errors.Is(err, ErrTooOld) {
			t.Errorf("unknown %s: %v", name, err)
		}
	}
	for name, frames := range map[string][]byte{
		"no header":    frameOf(t, 9, user),
		"two headers":  append(bytes.Clone(header), header...),
		"twice":        bytes.Join([][]byte{header, frameOf(t, 9, user), frameOf(t, 9, user)}, nil),
		"wrong record": append(bytes.Clone(header), frameOf(t, 9, &gwv1.UserRecord{Name: "ann", Role: "king"})...),
	} {
		if _, err := Decode(bytes.NewReader(sealed(frames))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	whole := encode(f, rich(f))
	f.Add(whole[len(magic) : len(whole)-33])
	f.Add(frameOf(f, recordHeader, &gwv1.SnapshotHeader{Format: format, Cluster: &gwv1.ClusterRecord{}}))
	f.Add([]byte{recordHeader, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, frames []byte) {
		s, err := Decode(bytes.NewReader(sealed(frames)))
		if err != nil {
			return
		}
		once := encode(t, s)
		if twice := encode(t, reload(t, s)); !bytes.Equal(once, twice) {
			t.Error("the state restored from it writes another snapshot")
		}
		checkState(t, s)
	})
}

func large(t testing.TB, resources, releases int) *State {
	t.Helper()
	s, index := New(), uint64(0)
	apply := func(c *gwv1.Command) {
		t.Helper()
		index++
		data, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		var r *gwv1.Result
		if s, r, _ = s.Apply(index, DecodeCommand(data)); r.Refusal != nil {
			t.Fatal(r.Refusal)
		}
	}
	spec := func(i, version int) string { return fmt.Sprintf("%01024d", i*1000+version) }
	var edits []*gwv1.ResourceEdit
	for i := range resources {
		edits = append(edits, edit("default", fmt.Sprintf("orders-%05d", i), spec(i, 0)))
	}
	apply(change1(edits...))
	for n := range releases {
		apply(change1(edit("default", fmt.Sprintf("orders-%05d", n*97%resources), spec(n, 1+n))))
		apply(&gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{
			Namespaces: []*gwv1.NamespaceChecksum{{Namespace: "default", Checksum: checksumOf(s, "default")}},
		}}})
	}
	return s
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestReleasesShareWhatIsEqual(t *testing.T) {
	empty := heap()
	one := large(t, 10_000, 1)
	first := heap() - empty
	hundred := large(t, 10_000, 100)
	all := heap() - empty - first
	restored := reload(t, hundred)
	again := heap() - empty - first - all
	t.Logf("10,000 resources of 1 KiB: 1 release %d KiB, 100 releases %d KiB, restored %d KiB", first>>10, all>>10, again>>10)
	if limit := first + 4<<20; all > limit || again > limit {
		t.Errorf("100 releases take %d KiB, restored %d KiB; one takes %d KiB", all>>10, again>>10, first>>10)
	}
	runtime.KeepAlive(one)
	runtime.KeepAlive(hundred)
	runtime.KeepAlive(restored)
}

func BenchmarkPush(b *testing.B) {
	s := large(b, 10_000, 2)
	c := change1(edit("default", "orders-00042", "y"))
	s, _, _ = s.Apply(100, c)
	push := &gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{
		Namespaces: []*gwv1.NamespaceChecksum{{Namespace: "default", Checksum: checksumOf(s, "default")}},
	}}}
	for b.Loop() {
		if _, r, _ := s.Apply(101, push); r.Push.GetNumber() == 0 {
			b.Fatal(r)
		}
	}
}

func BenchmarkSaveOne(b *testing.B) {
	s := large(b, 10_000, 2)
	for i := 0; b.Loop(); i++ {
		var r *gwv1.Result
		if s, r, _ = s.Apply(uint64(100+i), change1(edit("default", "orders-00042", fmt.Sprint(i)))); r.Refusal != nil {
			b.Fatal(r)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	whole := encode(b, large(b, 10_000, 100))
	b.SetBytes(int64(len(whole)))
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(whole)); err != nil {
			b.Fatal(err)
		}
	}
}
