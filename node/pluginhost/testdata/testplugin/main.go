// Command testplugin is the plugin that tests of the host run. What it does wrong depends on the name of its file, before
// it speaks, and on its config, after.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gw/edgeplugin"
)

type plugin struct {
	edgeplugin.BasePlugin
	config map[string]string
}

var (
	_ edgeplugin.PreAuthHandler       = (*plugin)(nil)
	_ edgeplugin.EdgePayloadReceiver  = (*plugin)(nil)
	_ edgeplugin.HealthChecker        = (*plugin)(nil)
	_ edgeplugin.ConfigSchemaProvider = (*plugin)(nil)
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "exits":
		fmt.Fprintln(os.Stderr, "I can't go on")
		os.Exit(3)
	case "mute":
		time.Sleep(time.Hour)
	case "wrongversion":
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: 99, MagicCookieKey: edgeplugin.MagicCookieKey, MagicCookieValue: edgeplugin.MagicCookieValue},
			VersionedPlugins: map[int]goplugin.PluginSet{99: {}},
			GRPCServer:       goplugin.DefaultGRPCServer,
		})
	}
	edgeplugin.Serve(&plugin{BasePlugin: edgeplugin.NewBasePlugin("testplugin", "1.2.3", "for tests")})
}

func (p *plugin) Manifest() edgeplugin.Manifest {
	m := p.BasePlugin.Manifest()
	m.RequestBodies, m.ResponseBodies = true, true
	return m
}

func (p *plugin) ConfigSchema() ([]byte, error) {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"mode": {"type": "string"}, "size": {"type": "integer", "minimum": 1, "maximum": 10}, "file": {"type": "string"}}}`), nil
}

func (p *plugin) Initialize(ctx edgeplugin.Context, config map[string]string) error {
	p.config = config
	switch config["mode"] {
	case "refuses":
		return errors.New("the database is not there")
	case "flood":
		go func() {
			for i := 0; ; i++ {
				ctx.Services.Logger().Info("line", "i", i)
				fmt.Println(strings.Repeat("x", 10_000))
				fmt.Fprintln(os.Stderr, "no end of it")
			}
		}()
	case "forks":
		child := exec.Command("sleep", "3600")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return err
		}
		return os.WriteFile(config["file"], fmt.Append(nil, child.Process.Pid), 0o600)
	}
	return nil
}

func (p *plugin) Shutdown(edgeplugin.Context) error {
	if p.config["mode"] == "records" {
		return os.WriteFile(p.config["file"], []byte("shut down"), 0o600)
	}
	return nil
}

func (p *plugin) Health(edgeplugin.Context) error {
	switch p.config["mode"] {
	case "unwell":
		return errors.New("the cache is cold")
	case "deaf":
		time.Sleep(time.Hour)
	}
	return nil
}

func (p *plugin) HandlePreAuth(ctx edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	switch req.Headers["Do"] {
	case "hang":
		time.Sleep(time.Hour)
	case "exit":
		os.Exit(7)
	case "huge":
		return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: make([]byte, 100<<20)}, nil
	case "count":
		return &edgeplugin.PluginResponse{Modified: true, Headers: map[string]string{"X-Seen": fmt.Sprint(len(req.Body))}}, nil
	case "fail":
		return nil, errors.New("I don't feel like it")
	case "fail late":
		return nil, fmt.Errorf("ask the database: %w", context.DeadlineExceeded)
	case "fail canceled":
		return nil, context.Canceled
	case "fail unavailable":
		return nil, status.Error(codes.Unavailable, "the database is away")
	case "fail exhausted":
		return nil, status.Error(codes.ResourceExhausted, "the database is full")
	case "env":
		return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: []byte(strings.Join(os.Environ(), "\n"))}, nil
	case "send":
		n, err := edgeplugin.SendToControl(ctx, req.Body, "c", map[string]string{"k": "v"})
		return said(fmt.Sprintf("%d %v %v %v", n, errors.Is(err, edgeplugin.ErrPayloadTooLarge), errors.Is(err, edgeplugin.ErrInvalidMetadata), errors.Is(err, edgeplugin.ErrQueueFull))), nil
	case "send 200 at once":
		limited, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		var sends sync.WaitGroup
		for range 200 {
			sends.Go(func() { _, _ = edgeplugin.SendToControl(limited, req.Body, "", nil) })
		}
		sends.Wait()
	case "list":
		keys, err := ctx.Services.KV().List(ctx, string(req.Body))
		return said(fmt.Sprintf("%d %v", len(slices.Compact(keys)), slices.IsSorted(keys))), err
	case "write":
		return said("written"), ctx.Services.KV().Write(ctx, "k", req.Body)
	case "kv":
		return p.useKV(ctx, ctx.Services.KV())
	}
	return &edgeplugin.PluginResponse{Modified: true, Headers: map[string]string{"X-Seen": req.Method + " " + string(req.Body)}}, nil
}

func said(s string) *edgeplugin.PluginResponse {
	return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: []byte(s)}
}

func (p *plugin) useKV(ctx context.Context, kv edgeplugin.KV) (*edgeplugin.PluginResponse, error) {
	if err := kv.Write(ctx, "a/1", []byte("one"), nil); err != nil {
		return nil, err
	}
	expires := time.Unix(2_000_000_000, 5)
	if err := kv.Write(ctx, "a/2", []byte("two"), &expires); err != nil {
		return nil, err
	}
	_, missing := kv.Read(ctx, "b")
	value, err := kv.Read(ctx, "a/2")
	if err != nil {
		return nil, err
	}
	deleted, err := kv.Delete(ctx, "a/1")
	if err != nil {
		return nil, err
	}
	keys, err := kv.List(ctx, "a/")
	return said(fmt.Sprintf("%v %s %v %v", errors.Is(missing, edgeplugin.ErrNotFound), value, deleted, keys)), err
}

func (p *plugin) OnResponse(_ context.Context, resp *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	return &edgeplugin.PluginResponse{Modified: true, StatusCode: resp.StatusCode + 1, ResponseBody: []byte(strings.ToUpper(string(resp.Body)))}, nil
}

func (p *plugin) OnStreamChunk(_ context.Context, c *edgeplugin.StreamChunk) (*edgeplugin.StreamChunkResponse, error) {
	return &edgeplugin.StreamChunkResponse{Modified: true, Data: []byte(strings.ToUpper(string(c.Data)))}, nil
}

func (p *plugin) AcceptEdgePayload(ctx edgeplugin.Context, e *edgeplugin.EdgePayload) (bool, error) {
	kv := ctx.Services.KV()
	switch string(e.Payload) {
	case "exit":
		os.Exit(7)
	case "hang":
		<-ctx.Done()
		time.Sleep(time.Hour)
	case "wait":
		if err := os.WriteFile(p.config["file"], nil, 0o600); err != nil {
			return false, err
		}
		for { // until the test has removed the file
			if _, err := os.Stat(p.config["file"]); err != nil {
				return true, nil
			}
			time.Sleep(time.Millisecond)
		}
	case "refuse":
		return false, errors.New("not mine")
	case "late":
		go func() {
			time.Sleep(50 * time.Millisecond)
			late := kv.Write(context.WithoutCancel(ctx), "late", nil)
			_ = os.WriteFile(p.config["file"], fmt.Append(nil, late), 0o600)
		}()
	}
	derived, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := kv.Write(derived, "of the call", e.Payload); err != nil {
		return false, err
	}
	if err := kv.Write(context.Background(), "of the plugin", e.Payload); err != nil {
		return false, err
	}
	if string(e.Payload) == "complain" {
		return true, errors.New("handled, but")
	}
	return true, nil
}
