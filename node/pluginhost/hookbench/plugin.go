package hookbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"gw/edgeplugin"
)

const (
	// RoleVariable tells a process that a bench started what it is. A plugin gets it if its resource names it in env.
	RoleVariable = "GW_BENCH_PLUGIN"
	// PluginRole is its value for a process that gw starts as a plugin.
	PluginRole = "plugin"
	echoRole   = "echo"

	// SendHeader has the plugin send as many payloads of 512 bytes to the hub before it answers, SendersHeader from as many
	// goroutines. It answers itself, with 200.
	SendHeader, SendersHeader = "Bench-Send", "Bench-Senders"
	// CountKey is where the hub's side counts payloads in its KV, in decimal.
	CountKey = "count"
)

// ServeIfStarted serves if this process was started by a bench as a plugin or its reference, until it is ended, and
// reports whether it was.
func ServeIfStarted() bool {
	switch os.Getenv(RoleVariable) {
	case PluginRole:
		// Every process below the bench has the variable; gw asks for a plugin with the cookie.
		if os.Getenv(edgeplugin.MagicCookieKey) != edgeplugin.MagicCookieValue {
			return false
		}
		edgeplugin.Serve(&plugin{BasePlugin: edgeplugin.NewBasePlugin("bench", "1.0.0", "What benches measure.")})
	case echoRole:
		_ = echo(os.Stdin, os.Stdout) // it ends with its parent
	default:
		return false
	}
	return true
}

// plugin does as little as a plugin can, on both sides.
type plugin struct {
	edgeplugin.BasePlugin
	counting sync.Mutex
}

var (
	_ edgeplugin.PreAuthHandler      = (*plugin)(nil)
	_ edgeplugin.EdgePayloadReceiver = (*plugin)(nil)
)

// Manifest asks for bodies.
func (p *plugin) Manifest() edgeplugin.Manifest {
	m := p.BasePlugin.Manifest()
	m.RequestBodies = true
	return m
}

// HandlePreAuth adds a header, or sends what it is told to.
func (p *plugin) HandlePreAuth(ctx edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	n, _ := strconv.Atoi(req.Headers[SendHeader]) // none: 0
	if n == 0 {
		return &edgeplugin.PluginResponse{Modified: true, Headers: map[string]string{"Bench-Seen": strconv.Itoa(len(req.Body))}}, nil
	}
	senders, err := strconv.Atoi(req.Headers[SendersHeader])
	if err != nil || senders < 1 {
		return nil, fmt.Errorf("%s: want a positive number", SendersHeader)
	}
	if err := sendAll(ctx, n, senders); err != nil {
		return nil, err
	}
	return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: []byte("sent")}, nil
}

func sendAll(ctx context.Context, n, senders int) error {
	errs := make([]error, senders)
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			for k := i; k < n && errs[i] == nil; k += senders {
				_, errs[i] = edgeplugin.SendToControl(ctx, make([]byte, 512), "", nil)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// AcceptEdgePayload counts.
func (p *plugin) AcceptEdgePayload(ctx edgeplugin.Context, _ *edgeplugin.EdgePayload) (bool, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	kv := ctx.Services.KV()
	count := 0
	b, err := kv.Read(ctx, CountKey)
	if err == nil {
		count, err = strconv.Atoi(string(b))
	} else if errors.Is(err, edgeplugin.ErrNotFound) {
		err = nil
	}
	if err == nil {
		err = kv.Write(ctx, CountKey, []byte(strconv.Itoa(count+1)))
	}
	return err == nil, err
}

// echo is the reference: a process that reads a length and as many bytes, and answers with the length.
func echo(r io.Reader, w io.Writer) error {
	var length [4]byte
	for {
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(length[:]))); err != nil {
			return err
		}
		if _, err := w.Write(length[:]); err != nil {
			return err
		}
	}
}
