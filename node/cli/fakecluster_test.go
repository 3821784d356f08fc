package cli_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"

	"gw/node/cli"
	"gw/rpc/gwv1"
)

// fakeCluster is the fake hub's ClusterService.
type fakeCluster struct {
	status   *gwv1.GetClusterStatusResponse
	staleAge string
	backup   []byte
	cut      bool // Backup breaks off in the middle
	restored []byte
	chunks   int
}

func (h *fakeHub) GetClusterStatus(context.Context, *gwv1.GetClusterStatusRequest) (*gwv1.GetClusterStatusResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.status == nil {
		return new(gwv1.GetClusterStatusResponse), nil
	}
	return proto.CloneOf(h.status), nil
}

func (h *fakeHub) RemoveHub(context.Context, *gwv1.RemoveHubRequest) (*gwv1.RemoveHubResponse, error) {
	return new(gwv1.RemoveHubResponse), nil
}

func (h *fakeHub) TransferLeadership(_ context.Context, req *gwv1.TransferLeadershipRequest) (*gwv1.TransferLeadershipResponse, error) {
	if req.To == "" {
		req.To = "bbbbbbbb000000000000000000000000"
	}
	return &gwv1.TransferLeadershipResponse{LeaderId: req.To}, nil
}

func (h *fakeHub) Backup(_ context.Context, req *gwv1.BackupRequest, stream *connect.ServerStream[gwv1.BackupResponse]) error {
	h.mu.Lock()
	data, cut, half := h.backup, h.cut, len(h.backup)/2
	h.log = append(h.log, fmt.Sprintf("Backup stale=%v", req.Stale))
	h.mu.Unlock()
	for len(data) > 0 {
		n := min(len(data), 1000)
		if err := stream.Send(&gwv1.BackupResponse{Chunk: data[:n]}); err != nil {
			return err
		}
		if data = data[n:]; cut && len(data) < half {
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}

func (h *fakeHub) Restore(_ context.Context, stream *connect.ClientStream[gwv1.RestoreRequest]) (*gwv1.RestoreResponse, error) {
	var got []byte
	adopt, chunks := false, 0
	for stream.Receive() {
		m := stream.Msg()
		if chunks++; len(m.Chunk) == 0 || len(m.Chunk) > 1<<20 || m.Adopt && chunks > 1 {
			return nil, refusal(connect.CodeInvalidArgument, "invalid", fmt.Sprintf("chunk %d has %d bytes, adopt %v", chunks, len(m.Chunk), m.Adopt))
		}
		adopt = adopt || m.Adopt
		got = append(got, m.Chunk...)
		// A hub that refuses after the first bytes doesn't read the rest.
		h.mu.Lock()
		refused := h.refusals["RestoreEarly"]
		h.mu.Unlock()
		if refused != nil {
			return nil, refused
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	info, err := fakeVerify(bytes.NewReader(got))
	if err != nil {
		return nil, refusal(connect.CodeInvalidArgument, "invalid", err.Error())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restored, h.chunks = got, chunks
	h.log = append(h.log, fmt.Sprintf("Restored adopt=%v", adopt))
	return &gwv1.RestoreResponse{Epoch: info.Epoch + 5, Index: 777}, nil
}

// fakeBackup returns a backup: a line of JSON, filler, and SHA-256 of both as a line of hex.
func fakeBackup(info cli.BackupInfo, filler int) []byte {
	line, err := json.Marshal(info)
	if err != nil {
		panic(err)
	}
	data := append(line, '\n')
	for i := range filler {
		data = append(data, byte('a'+i%26))
	}
	data = append(data, '\n')
	return fmt.Appendf(data, "%x\n", sha256.Sum256(data))
}

func fakeVerify(r io.Reader) (info cli.BackupInfo, err error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return info, err
	}
	const trailer = 2*sha256.Size + 1
	if len(data) <= trailer {
		return info, errors.New("it is too short")
	}
	body := data[:len(data)-trailer]
	if fmt.Sprintf("%x\n", sha256.Sum256(body)) != string(data[len(body):]) {
		return info, errors.New("its checksum is wrong")
	}
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return info, json.Unmarshal(line, &info)
}

// fakeRecover writes recovered into the directory, or ignores what confirm said and returns nil: the command itself must
// not call that recovered.
func fakeRecover(_ context.Context, dir string, confirm func(string) (bool, error)) error {
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil {
		return fmt.Errorf("recover %s: %w", dir, err)
	}
	if ok, err := confirm("This hub is aaaa, its last entry is 42; 3 entries would become committed."); !ok || err != nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "recovered"), []byte("yes\n"), 0o600)
}

// hubClusterCommand is the part of hubCommand about clusters and backups. h is locked.
func hubClusterCommand(ts *testscript.TestScript, h *fakeHub, args []string) {
	switch args[0] {
	case "cluster":
		h.status = new(gwv1.GetClusterStatusResponse)
		ts.Check(unmarshal(ts.ReadFile(args[1]), h.status))
	case "age":
		h.staleAge = args[1]
	case "make":
		filler, err := strconv.Atoi(args[3])
		ts.Check(err)
		info := cli.BackupInfo{ClusterID: args[2], Epoch: 2, Index: 41, Resources: 7, Releases: 6, Apps: 5, Tokens: 4, Secrets: 3, Edges: 2, Users: 1}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), fakeBackup(info, filler), 0o600))
	case "backup":
		h.backup, h.cut = []byte(ts.ReadFile(args[1])), slices.Contains(args, "cut")
		if slices.Contains(args, "empty") {
			h.backup = nil
		}
	case "restored":
		if want := ts.ReadFile(args[1]); want != string(h.restored) {
			ts.Fatalf("the hub has restored %d bytes, want %d", len(h.restored), len(want))
		}
	default:
		ts.Fatalf("hub %s is not known", args[0])
	}
}
