package gatewaybench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// load sends c.Requests requests over c.Connections connections. It speaks just enough HTTP/1.1 not to be in the way.
func load(ctx context.Context, address, token string, c Config) error {
	body := jsonBody(c.Body)
	request := fmt.Appendf(nil, "POST /bench/orders HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"User-Agent: gw-bench\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		address, token, len(body), body)
	var left atomic.Int64
	left.Store(int64(c.Requests))
	g, ctx := errgroup.WithContext(ctx)
	for range c.Connections {
		g.Go(func() error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			r := bufio.NewReader(conn)
			for left.Add(-1) >= 0 {
				if _, err := conn.Write(request); err != nil {
					return err
				}
				if err := readAnswer(r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func readAnswer(r *bufio.Reader) error {
	status, length, err := readHead(r)
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte(" 200 ")) {
		return fmt.Errorf("got %q", status)
	}
	_, err = r.Discard(length)
	return err
}

// readHead reads up to the body of a message with a Content-Length, and returns its first line's beginning.
func readHead(r *bufio.Reader) (first []byte, length int, err error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return first, length, nil
		}
		if first == nil {
			first = bytes.Clone(line[:min(len(line), 64)])
			continue
		}
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && strings.EqualFold(string(key), "Content-Length") {
			if length, err = strconv.Atoi(textproto.TrimString(string(value))); err != nil {
				return nil, 0, err
			}
		}
	}
}

// jsonBody returns a JSON object of n bytes, or a little more if n is very small.
func jsonBody(n int) string {
	const frame = `{"text":""}`
	return `{"text":"` + strings.Repeat("x", max(0, n-len(frame))) + `"}`
}
