package state

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// Names of tables and of their indexes; "id" is memdb's word for the primary one.
const (
	tableResources     = "resources"
	tableApps          = "apps"
	tableTokens        = "tokens"
	tableSecrets       = "secrets"
	tableJoinTokens    = "join_tokens"
	tableEdges         = "edges"
	tableUsers         = "users"
	tableSessions      = "sessions"
	tableAccess        = "access_changes"
	tableAudit         = "audit"
	tableIdempotency   = "idempotency"
	tableStaged        = "staged_blobs"
	tableReleases      = "releases"
	tableHubs          = "hubs"
	tablePushes        = "pushes"
	tablePushEdges     = "push_edges"
	tableFreezes       = "freezes"
	tableTimelines     = "timelines"
	tableRevocations   = "revocations"
	tablePluginKV      = "plugin_kv"
	tablePluginSizes   = "plugin_kv_sizes"
	tablePluginMarks   = "plugin_marks"
	tablePluginTallies = "plugin_tallies"
	tableDeadLetters   = "dead_letters"

	byID        = "id"
	byUID       = "uid"
	byHash      = "hash"
	byApp       = "app"
	bySecret    = "secret"
	byNamespace = "namespace"
	byTime      = "time"
	byIndex     = "index"
	byEdge      = "edge"
)

// table is one kind of record the state keeps: how it is found, and how it stands in a snapshot.
type table struct {
	name string
	// record is the number of its frames in a snapshot; never reused, never changed.
	record  byte
	indexes map[string]*memdb.IndexSchema
	// decode reads one frame; nil for releases, which are encoded as differences.
	decode func(payload []byte) (proto.Message, error)
}

// tables is every table, in the order of a snapshot. Schema, Encode and Decode are made from it, so that a table can't
// be in one and be forgotten in another.
var tables = []table{
	{tableResources, 2, indexes(unique(byID, keyOfResource), multi(bySecret, secretsOfResource)), decodeAs[*gwv1.ResourceRecord](validResource)},
	{tableReleases, 3, indexes(unique(byID, func(r *Release) []byte { return releaseKey(r.Namespace, r.Number) })), nil},
	{tableApps, 4, indexes(
		unique(byID, func(r *gwv1.AppRecord) []byte { return join(r.Namespace, r.Name) }),
		unique(byUID, func(r *gwv1.AppRecord) []byte { return []byte(r.Id) })), decodeAs[*gwv1.AppRecord](validApp)},
	{tableTokens, 5, indexes(
		unique(byID, func(r *gwv1.TokenRecord) []byte { return []byte(r.Id) }),
		unique(byHash, func(r *gwv1.TokenRecord) []byte { return clip(r.Hash) }),
		many(byApp, func(r *gwv1.TokenRecord) []byte { return terminated(r.AppId) })), decodeAs[*gwv1.TokenRecord](validToken)},
	{tableSecrets, 6, indexes(
		unique(byID, func(r *gwv1.SecretRecord) []byte { return join(r.Namespace, r.Name) })), decodeAs[*gwv1.SecretRecord](validSecret)},
	{tableJoinTokens, 7, indexes(
		unique(byID, func(r *gwv1.JoinTokenRecord) []byte { return []byte(r.Id) }),
		many(byNamespace, func(r *gwv1.JoinTokenRecord) []byte { return terminated(r.Namespace) })), decodeAs[*gwv1.JoinTokenRecord](validJoinToken)},
	{tableEdges, 8, indexes(
		unique(byID, func(r *gwv1.EdgeRecord) []byte { return []byte(r.Id) }),
		many(byNamespace, func(r *gwv1.EdgeRecord) []byte { return terminated(r.Namespace) })), decodeAs[*gwv1.EdgeRecord](validEdge)},
	{tableUsers, 9, indexes(
		unique(byID, func(r *gwv1.UserRecord) []byte { return []byte(r.Name) })), decodeAs[*gwv1.UserRecord](validUser)},
	{tableSessions, 10, indexes(
		unique(byID, func(r *gwv1.SessionRecord) []byte { return clip(r.TokenHash) }),
		many(byTime, func(r *gwv1.SessionRecord) []byte { return timeKey(r.ExpiresAt) })), decodeAs[*gwv1.SessionRecord](validSession)},
	{tableAccess, 11, indexes(unique(byID, keyOfAccessChange)), decodeAs[*gwv1.AccessChangeRecord](validAccessChange)},
	{tableAudit, 12, indexes(
		unique(byID, func(r *gwv1.AuditRecord) []byte { return number(r.Index) })), decodeAs[*gwv1.AuditRecord](nil)},
	{tableIdempotency, 13, indexes(
		unique(byID, func(r *gwv1.IdempotencyRecord) []byte { return join(r.Actor, r.Key) }),
		unique(byIndex, func(r *gwv1.IdempotencyRecord) []byte { return number(r.GetResult().GetIndex()) })), decodeAs[*gwv1.IdempotencyRecord](validIdempotency)},
	{tableStaged, 14, indexes(
		unique(byID, func(r *gwv1.StagedBlob) []byte { return join(r.Stage, string(r.Sha256)) }),
		many(byTime, func(r *gwv1.StagedBlob) []byte { return timeKey(r.At) })), decodeAs[*gwv1.StagedBlob](validStaged)},
	{tableHubs, 15, indexes(
		unique(byID, func(r *gwv1.HubRecord) []byte { return []byte(r.Id) })), decodeAs[*gwv1.HubRecord](validHub)},
	{tablePushes, 16, indexes(
		unique(byID, func(r *gwv1.PushRecord) []byte { return pushKey(r.Number) })), decodeAs[*gwv1.PushRecord](validPush)},
	{tablePushEdges, 17, indexes(
		unique(byID, func(r *gwv1.PushEdgeRecord) []byte { return pushEdgeKey(r.Push, r.Edge) })), decodeAs[*gwv1.PushEdgeRecord](validPushEdge)},
	{tableFreezes, 18, indexes(
		unique(byID, func(r *gwv1.FreezeRecord) []byte { return terminated(r.Namespace) })), decodeAs[*gwv1.FreezeRecord](validFreeze)},
	{tableTimelines, 20, indexes(
		unique(byID, func(r *gwv1.TimelineRecord) []byte { return []byte(r.EdgeId) }),
		multi(byTime, removalOfTimeline)), decodeAs[*gwv1.TimelineRecord](validTimeline)},
	{tableRevocations, 21, indexes(
		unique(byID, func(r *gwv1.RevocationRecord) []byte { return []byte(r.EdgeId) }),
		many(byTime, func(r *gwv1.RevocationRecord) []byte { return timeKey(r.At) })), decodeAs[*gwv1.RevocationRecord](validRevocation)},
	{tablePluginKV, 23, indexes(
		unique(byID, func(r *gwv1.PluginKVRecord) []byte { return pluginKVKey(r.PluginId, r.Key) }),
		multi(byTime, expiryOfKV)), decodeAs[*gwv1.PluginKVRecord](validPluginKV)},
	{tablePluginSizes, 24, indexes(
		unique(byID, func(r *gwv1.PluginKVSizeRecord) []byte { return pluginKey(r.PluginId) })), decodeAs[*gwv1.PluginKVSizeRecord](validPluginSize)},
	{tablePluginMarks, 25, indexes(
		unique(byID, func(r *gwv1.PluginMarkRecord) []byte { return markKey(r.StoreId, r.PluginId) }),
		many(byTime, func(r *gwv1.PluginMarkRecord) []byte { return append(timeKey(r.At), markKey(r.StoreId, r.PluginId)...) })), decodeAs[*gwv1.PluginMarkRecord](validPluginMark)},
	{tablePluginTallies, 26, indexes(
		unique(byID, func(r *gwv1.PluginTallyRecord) []byte { return pluginKey(r.PluginId) })), decodeAs[*gwv1.PluginTallyRecord](validPluginTally)},
	{tableDeadLetters, 27, indexes(
		unique(byID, func(r *gwv1.DeadLetterRecord) []byte { return []byte(r.Id) }),
		many(byTime, func(r *gwv1.DeadLetterRecord) []byte { return append(timeKey(r.At), r.Id...) }),
		multi(byEdge, orderedEdge)), decodeAs[*gwv1.DeadLetterRecord](validDeadLetter)},
}

func schema() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: make(map[string]*memdb.TableSchema, len(tables))}
	for _, t := range tables {
		s.Tables[t.name] = &memdb.TableSchema{Name: t.name, Indexes: t.indexes}
	}
	return s
}

func indexes(list ...*memdb.IndexSchema) map[string]*memdb.IndexSchema {
	m := make(map[string]*memdb.IndexSchema, len(list))
	for _, s := range list {
		m[s.Name] = s
	}
	return m
}

func unique[T any](name string, key func(T) []byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: true, Indexer: index[T](key)}
}

func many[T any](name string, key func(T) []byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Indexer: index[T](key)}
}

func multi[T any](name string, keys func(T) [][]byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: multiIndex[T](keys)}
}

// index is a memdb indexer whose keys are bytes made by a function. Its arguments are such keys, whole or as prefixes.
type index[T any] func(T) []byte

func (x index[T]) FromObject(o any) (bool, []byte, error) {
	r, ok := o.(T)
	if !ok {
		return false, nil, fmt.Errorf("index of %T: got %T", r, o)
	}
	return true, x(r), nil
}

func (x index[T]) FromArgs(args ...any) ([]byte, error)       { return keyArg(args) }
func (x index[T]) PrefixFromArgs(args ...any) ([]byte, error) { return keyArg(args) }

type multiIndex[T any] func(T) [][]byte

func (x multiIndex[T]) FromObject(o any) (bool, [][]byte, error) {
	r, ok := o.(T)
	if !ok {
		return false, nil, fmt.Errorf("index of %T: got %T", r, o)
	}
	keys := x(r)
	return len(keys) > 0, keys, nil
}

func (x multiIndex[T]) FromArgs(args ...any) ([]byte, error)       { return keyArg(args) }
func (x multiIndex[T]) PrefixFromArgs(args ...any) ([]byte, error) { return keyArg(args) }

func keyArg(args []any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("got %d index arguments, want 1", len(args))
	}
	k, ok := args[0].([]byte)
	if !ok {
		return nil, fmt.Errorf("got an index argument of type %T, want bytes", args[0])
	}
	return k, nil
}

// join makes a key of parts; all but the last must be free of zero bytes, which the checks on records see to.
func join(parts ...string) []byte {
	n := len(parts)
	for _, p := range parts {
		n += len(p)
	}
	k := make([]byte, 0, n)
	for i, p := range parts {
		if i > 0 {
			k = append(k, 0)
		}
		k = append(k, p...)
	}
	return k
}

// terminated makes a key that is no prefix of another's, for indexes with many records per key and for prefix searches.
func terminated(parts ...string) []byte { return append(join(parts...), 0) }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// timeKey orders times, negative ones too.
func timeKey(t int64) []byte { return number(uint64(t) ^ 1<<63) }

// clip returns b without spare capacity: memdb may append to a key.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

func resourceKey(kind, namespace, name string) []byte { return join(namespace, kind, name) }

func keyOfResource(r *gwv1.ResourceRecord) []byte { return resourceKey(r.Kind, r.Namespace, r.Name) }

func secretsOfResource(r *gwv1.ResourceRecord) [][]byte {
	keys := make([][]byte, len(r.Secrets))
	for i, s := range r.Secrets {
		keys[i] = terminated(s)
	}
	return keys
}

// removalOfTimeline is empty for edges that are registered: only timelines of removed ones are ever forgotten.
func removalOfTimeline(r *gwv1.TimelineRecord) [][]byte {
	if r.RemovedAt == 0 {
		return nil
	}
	return [][]byte{timeKey(r.RemovedAt)}
}

func releaseKey(namespace string, n uint64) []byte {
	return append(terminated(namespace), number(n)...)
}

// keyOfAccessChange tells changes of one version apart by what they are about.
func keyOfAccessChange(r *gwv1.AccessChangeRecord) []byte {
	k := number(r.Version)
	switch c := r.Change.(type) {
	case *gwv1.AccessChangeRecord_RevokedToken:
		k = append(append(k, 1), c.RevokedToken...)
	case *gwv1.AccessChangeRecord_ChangedApp:
		k = append(append(k, 2), c.ChangedApp...)
	case *gwv1.AccessChangeRecord_DeletedApp:
		k = append(append(k, 3), c.DeletedApp...)
	case *gwv1.AccessChangeRecord_ChangedSecret:
		k = append(append(k, 4), join(c.ChangedSecret.GetNamespace(), c.ChangedSecret.GetName())...)
	}
	return k
}
