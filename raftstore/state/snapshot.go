package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	iradix "github.com/hashicorp/go-immutable-radix"
	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// A snapshot is the magic, then frames, each one byte of record number, the payload's length as a uvarint, and the
// payload, then the trailer's number and the SHA-256 of everything before that number. Frames stand in the order of
// tables and of keys, so that one state has one encoding.
const (
	magic        = "gw state\n"
	format       = 1
	recordHeader = 1
	recordFloor  = 100 // an AccessChangeRecord with only a version: State.accessFloor
	recordEnd    = 255
	maxFrame     = 512 << 20
)

// ErrCorrupt is what Decode's errors wrap when the bytes are not a whole snapshot.
var ErrCorrupt = errors.New("snapshot is damaged")

// ErrTooOld is wrapped by errors about records and commands that a newer version of gw made.
var ErrTooOld = errors.New("binary too old")

// Encode writes a snapshot: the same bytes for the same state on every machine.
func (s *State) Encode(w io.Writer) error {
	sum := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	e := &encoder{w: buffered}
	e.write([]byte(magic))
	e.frame(recordHeader, &gwv1.SnapshotHeader{Format: format, Cluster: s.cluster, Index: s.index})
	tx := s.db.Txn(false)
	for _, t := range tables {
		if t.decode == nil {
			e.releases(t.record, tx)
			continue
		}
		for m := range list[proto.Message](tx, t.name, byID, nil) {
			e.frame(t.record, m)
		}
	}
	if s.accessFloor > 0 {
		e.frame(recordFloor, &gwv1.AccessChangeRecord{Version: s.accessFloor})
	}
	if e.err == nil {
		e.err = buffered.Flush()
	}
	if e.err != nil {
		return fmt.Errorf("write snapshot: %w", e.err)
	}
	if _, err := w.Write(append([]byte{recordEnd}, sum.Sum(nil)...)); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Digest is SHA-256 of the whole state: of what Encode writes. Equal states have equal digests, on every machine. It
// reads everything, and may take a while.
func (s *State) Digest() (digest [sha256.Size]byte) {
	sum := sha256.New()
	if err := s.Encode(sum); err != nil {
		return digest // a record that can't be encoded, which no state holds; zero differs from every digest
	}
	sum.Sum(digest[:0])
	return digest
}

// encoder writes frames until the first error, which it keeps.
type encoder struct {
	w   *bufio.Writer
	buf []byte
	err error
}

func (e *encoder) write(b []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(b)
	}
}

func (e *encoder) frame(record byte, m proto.Message) {
	if e.err != nil {
		return
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(e.buf[:0], m)
	if err == nil && len(payload) > maxFrame {
		err = fmt.Errorf("a %s of %d bytes is larger than a snapshot's frame", m.ProtoReflect().Descriptor().Name(), len(payload))
	}
	if err != nil {
		e.err = err
		return
	}
	e.buf = payload
	e.write(binary.AppendUvarint([]byte{record}, uint64(len(payload))))
	e.write(payload)
}

// releases writes each release as its difference to the one of the namespace before it.
func (e *encoder) releases(record byte, tx *memdb.Txn) {
	var previous *Release
	for r := range list[*Release](tx, tableReleases, byID, nil) {
		base := iradix.New()
		if previous != nil && previous.Namespace == r.Namespace {
			base = previous.entries
		}
		m := &gwv1.ReleaseRecord{
			Namespace: r.Namespace, Number: r.Number, Epoch: r.Epoch, Checksum: r.Checksum[:],
			CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy, Note: r.Note,
		}
		difference(base, r.entries, func(before, after *gwv1.ReleaseEntry) {
			if after == nil {
				m.Removals = append(m.Removals, &gwv1.ReleaseEntry{Kind: before.Kind, Name: before.Name})
				return
			}
			m.Upserts = append(m.Upserts, after)
		})
		e.frame(record, m)
		previous = r
	}
}

// difference calls f for each entry that is not the same in a and b, in order; before or after is nil where there is none.
func difference(a, b *iradix.Tree, f func(before, after *gwv1.ReleaseEntry)) {
	ia, ib := a.Root().Iterator(), b.Root().Iterator()
	next := func(it *iradix.Iterator) *gwv1.ReleaseEntry {
		_, v, _ := it.Next()
		e, _ := v.(*gwv1.ReleaseEntry)
		return e
	}
	x, y := next(ia), next(ib)
	for x != nil || y != nil {
		c := 0
		switch {
		case x == nil:
			c = 1
		case y == nil:
			c = -1
		case x != y:
			c = compareNames(x.Kind, x.Name, y.Kind, y.Name)
		}
		switch {
		case c < 0:
			f(x, nil)
			x = next(ia)
		case c > 0:
			f(nil, y)
			y = next(ib)
		default:
			if x != y && !bytes.Equal(x.Digest, y.Digest) {
				f(x, y)
			}
			x, y = next(ia), next(ib)
		}
	}
}

// Decode reads what Encode wrote, to its end. Nothing is believed before the trailer was verified: on any error the
// state is nil. The error wraps ErrCorrupt or ErrTooOld.
func Decode(r io.Reader) (*State, error) {
	sum := sha256.New()
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), sum: sum, specs: map[resource.Digest][]byte{}}
	head := make([]byte, len(magic))
	if err := d.read(head); err != nil || string(head) != magic {
		return nil, fmt.Errorf("read snapshot: not a snapshot of gw: %w", ErrCorrupt)
	}
	s := New()
	tx := s.db.Txn(true)
	defer tx.Abort()
	for {
		record, payload, err := d.frame()
		if err != nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		if record == recordEnd {
			break
		}
		if err := d.record(s, tx, record, payload); err != nil {
			return nil, fmt.Errorf("read snapshot: record %d: %w", record, err)
		}
	}
	if d.last == 0 {
		return nil, fmt.Errorf("read snapshot: no header: %w", ErrCorrupt)
	}
	tx.Commit()
	s.totals = count(s.db.Txn(false))
	return s, nil
}

// decoder reads frames and puts them into a state's transaction.
type decoder struct {
	r   *bufio.Reader
	sum hash.Hash // of everything read so far
	buf bytes.Buffer

	last     byte   // number of the last record
	lastKey  []byte // and its key
	previous *Release
	specs    map[resource.Digest][]byte // one copy of equal specs
}

func (d *decoder) read(b []byte) error {
	if _, err := io.ReadFull(d.r, b); err != nil {
		return err
	}
	d.sum.Write(b)
	return nil
}

// ReadByte reads one byte, for binary.ReadUvarint.
func (d *decoder) ReadByte() (byte, error) {
	b, err := d.r.ReadByte()
	if err == nil {
		d.sum.Write([]byte{b})
	}
	return b, err
}

// frame returns the next frame, whose payload is valid until the next call; at the trailer, recordEnd once it is verified.
func (d *decoder) frame() (record byte, payload []byte, err error) {
	record, err = d.r.ReadByte()
	if err != nil {
		return 0, nil, fmt.Errorf("it ends too soon: %w", ErrCorrupt)
	}
	if record == recordEnd {
		return record, nil, d.trailer()
	}
	d.sum.Write([]byte{record})
	n, err := binary.ReadUvarint(d)
	if err != nil || n > maxFrame {
		return 0, nil, fmt.Errorf("length of a frame: %w", ErrCorrupt)
	}
	d.buf.Reset() // and grown by what is really there, not by what the length claims
	if _, err := io.CopyN(io.MultiWriter(&d.buf, d.sum), d.r, int64(n)); err != nil {
		return 0, nil, fmt.Errorf("it ends too soon: %w", ErrCorrupt)
	}
	return record, d.buf.Bytes(), nil
}

func (d *decoder) trailer() error {
	want := d.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(d.r, got); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("its SHA-256 is wrong: %w", ErrCorrupt)
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("bytes after its end: %w", ErrCorrupt)
	}
	return nil
}

func (d *decoder) record(s *State, tx *memdb.Txn, record byte, payload []byte) error {
	if (record == recordHeader) != (d.last == 0) || record < d.last {
		return fmt.Errorf("out of order: %w", ErrCorrupt)
	}
	if record != d.last {
		d.lastKey = nil
	}
	d.last = record
	switch record {
	case recordHeader:
		return d.header(s, payload)
	case recordFloor:
		m := &gwv1.AccessChangeRecord{}
		if err := unmarshal(payload, m); err != nil {
			return err
		}
		s.accessFloor = m.Version
		return d.ordered(number(m.Version))
	}
	for _, t := range tables {
		if t.record != record {
			continue
		}
		if t.decode == nil {
			return d.release(tx, payload)
		}
		m, err := t.decode(payload)
		if err != nil {
			return err
		}
		return d.insert(tx, t, m)
	}
	return fmt.Errorf("%w: this version of gw does not know it", ErrTooOld)
}

func (d *decoder) header(s *State, payload []byte) error {
	h := &gwv1.SnapshotHeader{}
	if err := unmarshal(payload, h); err != nil {
		return err
	}
	if h.Format != format {
		return fmt.Errorf("%w: format %d, this version of gw reads %d", ErrTooOld, h.Format, format)
	}
	if h.Cluster == nil {
		return fmt.Errorf("no cluster: %w", ErrCorrupt)
	}
	if h.Cluster.FeatureLevel > FeatureLevel {
		return fmt.Errorf("%w: feature level %d, this version of gw knows %d", ErrTooOld, h.Cluster.FeatureLevel, FeatureLevel)
	}
	s.cluster, s.index = h.Cluster, h.Index
	return nil
}

func (d *decoder) insert(tx *memdb.Txn, t table, m proto.Message) error {
	x, ok := t.indexes[byID].Indexer.(memdb.SingleIndexer)
	if !ok {
		return fmt.Errorf("table %s has no key", t.name)
	}
	_, key, err := x.FromObject(m)
	if err != nil {
		return err
	}
	if err := d.ordered(key); err != nil {
		return err
	}
	if r, ok := m.(*gwv1.ResourceRecord); ok {
		r.Spec = d.spec(r.Digest, r.Spec)
	}
	if err := tx.Insert(t.name, m); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// ordered refuses a record that is not after the one before it.
func (d *decoder) ordered(key []byte) error {
	if d.lastKey != nil && bytes.Compare(d.lastKey, key) >= 0 {
		return fmt.Errorf("out of order: %w", ErrCorrupt)
	}
	d.lastKey = append([]byte{}, key...)
	return nil
}

// spec returns the copy of a spec that is already held, or else keeps this one. The digest was checked to be the spec's.
func (d *decoder) spec(digest, spec []byte) []byte {
	k, _ := resource.AsDigest(digest)
	if held, ok := d.specs[k]; ok {
		return held
	}
	d.specs[k] = spec
	return spec
}

func (d *decoder) release(tx *memdb.Txn, payload []byte) error {
	m := &gwv1.ReleaseRecord{}
	if err := unmarshal(payload, m); err != nil {
		return err
	}
	checksum, ok := resource.AsDigest(m.Checksum)
	if p := edgeNamespaceProblem(m.Namespace); p != "" || !ok {
		return fmt.Errorf("a release without namespace or checksum: %w", ErrCorrupt)
	}
	if err := d.ordered(releaseKey(m.Namespace, m.Number)); err != nil {
		return err
	}
	r := &Release{
		Namespace: m.Namespace, Number: m.Number, Epoch: m.Epoch, Checksum: checksum,
		CreatedAt: m.CreatedAt, CreatedBy: m.CreatedBy, Note: m.Note,
	}
	base := iradix.New()
	var previous *Release
	if d.previous != nil && d.previous.Namespace == r.Namespace {
		previous, base = d.previous, d.previous.entries
	}
	entries, err := d.entries(base, m)
	if err != nil {
		return err
	}
	r.entries = entries
	r.summarise(previous)
	if resource.Checksum(manifestOf(r.Entries())) != r.Checksum {
		return fmt.Errorf("release %s %d does not match its checksum: %w", r.Namespace, r.Number, ErrCorrupt)
	}
	d.previous = r
	return tx.Insert(tableReleases, r)
}

func (d *decoder) entries(base *iradix.Tree, m *gwv1.ReleaseRecord) (*iradix.Tree, error) {
	txn := base.Txn()
	for _, e := range m.Removals {
		if _, ok := txn.Delete(entryKey(e)); !ok {
			return nil, fmt.Errorf("a removal of what isn't there: %w", ErrCorrupt)
		}
	}
	for _, e := range m.Upserts {
		if p := entryProblem(e.Kind, e.Name, e.Digest, e.Spec, e.Secrets); p != "" {
			return nil, fmt.Errorf("%s: %w", p, ErrCorrupt)
		}
		e.Spec = d.spec(e.Digest, e.Spec)
		txn.Insert(entryKey(e), e)
	}
	return txn.Commit(), nil
}

// unmarshal refuses fields this version doesn't know: a newer one gave them a meaning that would be lost.
func unmarshal(b []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if proto.Size(m) != len(b) {
		return fmt.Errorf("%w: %s has fields this version of gw does not know", ErrTooOld, m.ProtoReflect().Descriptor().Name())
	}
	return nil
}

// decodeAs makes a table's decode: the message, and then the check that holds for every record kept.
func decodeAs[M interface {
	*T
	proto.Message
}, T any](problem func(M) string) func([]byte) (proto.Message, error) {
	return func(b []byte) (proto.Message, error) {
		m := M(new(T))
		if err := unmarshal(b, m); err != nil {
			return nil, err
		}
		if problem != nil {
			if p := problem(m); p != "" {
				return nil, fmt.Errorf("%s: %w", p, ErrCorrupt)
			}
		}
		return m, nil
	}
}

func count(tx *memdb.Txn) (t totals) {
	for range list[*gwv1.AuditRecord](tx, tableAudit, byID, nil) {
		t.auditEntries++
	}
	for range list[*gwv1.AccessChangeRecord](tx, tableAccess, byID, nil) {
		t.accessChanges++
	}
	for r := range list[*gwv1.IdempotencyRecord](tx, tableIdempotency, byID, nil) {
		t.idempotencyKeys++
		t.idempotencyBytes += proto.Size(r)
	}
	for r := range list[*gwv1.StagedBlob](tx, tableStaged, byID, nil) {
		t.stagedBytes += len(r.Blob)
	}
	for r := range list[*gwv1.PluginKVRecord](tx, tablePluginKV, byID, nil) {
		t.pluginKVBytes += int(kvBytes(r))
	}
	for range list[*gwv1.DeadLetterRecord](tx, tableDeadLetters, byID, nil) {
		t.deadLetters++
	}
	return t
}
