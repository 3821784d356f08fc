// Command ledger is the plugin of TestChaosPayloads, on both sides. At the edge it sends payloads, each with a name of its
// own, and tells which were taken. At the hub it counts how often each name came.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"gw/edgeplugin"
)

func main() {
	edgeplugin.Serve(&ledger{BasePlugin: edgeplugin.NewBasePlugin("ledger", "1.0.0", "Counts payloads by name.")})
}

type ledger struct {
	edgeplugin.BasePlugin
	mu sync.Mutex // payloads of several edges may come at once
}

var (
	_ edgeplugin.PreAuthHandler      = (*ledger)(nil)
	_ edgeplugin.EdgePayloadReceiver = (*ledger)(nil)
)

// Initialize writes the process's ID where the test looks for it.
func (l *ledger) Initialize(_ edgeplugin.Context, config map[string]string) error {
	return os.WriteFile(config["pid_file"], fmt.Append(nil, os.Getpid()), 0o600)
}

// HandlePreAuth sends as many payloads as the header Send says, named by the header Batch, and answers with the names of
// those that were taken, one a line.
func (l *ledger) HandlePreAuth(ctx edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	n, err := strconv.Atoi(req.Headers["Send"])
	if err != nil {
		return nil, fmt.Errorf("header Send: %w", err)
	}
	taken := make([]string, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			name := fmt.Sprintf("%s-%d", req.Headers["Batch"], i)
			if _, err := edgeplugin.SendToControl(ctx, []byte(name), name, nil); err == nil {
				taken[i] = name + "\n"
			}
		})
	}
	group.Wait()
	return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: []byte(strings.Join(taken, ""))}, nil
}

// AcceptEdgePayload raises the payload's own count and that of all.
func (l *ledger) AcceptEdgePayload(ctx edgeplugin.Context, p *edgeplugin.EdgePayload) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kv := ctx.Services.KV()
	for _, key := range []string{"seen/" + string(p.Payload), "total"} {
		b, err := kv.Read(ctx, key)
		if err != nil && !errors.Is(err, edgeplugin.ErrNotFound) {
			return false, err
		}
		n, _ := strconv.Atoi(string(b)) // none: 0
		if n > 0 && key != "total" {
			if err := kv.Write(ctx, "twice/"+string(p.Payload), []byte("!")); err != nil {
				return false, err
			}
		}
		if err := kv.Write(ctx, key, []byte(strconv.Itoa(n+1))); err != nil {
			return false, err
		}
	}
	return true, nil
}
