package gateway

import (
	"net/url"
	"strings"
)

// maxPath is the longest path served, in bytes.
const maxPath = 16 << 10

// path is a request's path in the forms that matter. What is matched and what is forwarded are the same path: dot
// segments and repeated slashes are resolved in both, and a path that upstreams may read in another way than gw does is
// refused before it gets here.
type path struct {
	// escaped is what is forwarded: the path as it was sent, but for resolved dot segments and repeated slashes.
	escaped string
	// decoded is what is matched. An encoded slash is a slash in it.
	decoded string
	// literal is decoded, but for encoded slashes, which are no borders in it (0x00 stands for them). It differs from
	// decoded only if there are any; a path is then refused unless both lead to the same place.
	literal string
}

// cleanPath reads a path as sent, without its query. ok is false if it is not a path or has two readings: an encoded dot
// segment, or one hidden behind a backslash, an encoded slash or a path parameter.
func cleanPath(raw string) (p path, ok bool) {
	if len(raw) == 0 || raw[0] != '/' || len(raw) > maxPath {
		return path{}, false
	}
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '%', c == '\\', c == '/' && i+1 < len(raw) && (raw[i+1] == '/' || raw[i+1] == '.'):
			return cleanHard(raw)
		case c <= ' ', c == 0x7f, c == '?', c == '#':
			return path{}, false
		}
	}
	return path{raw, raw, raw}, true
}

// cleanHard is cleanPath for the paths that need more than a look.
func cleanHard(raw string) (p path, ok bool) {
	var escaped, decoded []string
	segments := strings.Split(raw[1:], "/")
	folder := false // the path ends in a slash
	for _, seg := range segments {
		folder = seg == "" || seg == "." || seg == ".."
		switch seg {
		case "", ".":
			continue
		case "..":
			if len(escaped) > 0 {
				escaped, decoded = escaped[:len(escaped)-1], decoded[:len(decoded)-1]
			}
			continue
		}
		text, err := url.PathUnescape(seg)
		if err != nil || hidesDots(text) || strings.ContainsFunc(seg, notInPath) || strings.ContainsFunc(text, isControl) {
			return path{}, false
		}
		escaped, decoded = append(escaped, seg), append(decoded, text)
	}
	end := ""
	if folder && len(escaped) > 0 {
		end = "/"
	}
	p.escaped = "/" + strings.Join(escaped, "/") + end
	p.decoded = mergeSlashes("/" + strings.Join(decoded, "/") + end)
	for i, text := range decoded {
		decoded[i] = strings.ReplaceAll(text, "/", "\x00")
	}
	p.literal = "/" + strings.Join(decoded, "/") + end
	return p, true
}

// hidesDots reports whether a decoded segment could be read as one or more segments of which one is "." or "..".
func hidesDots(text string) bool {
	for part := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == '/' || c == '\\' }) {
		name, _, _ := strings.Cut(part, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

func notInPath(c rune) bool { return c <= ' ' || c == 0x7f || c == '?' || c == '#' }

// validQuery reports whether a query can be forwarded byte for byte. Over HTTP/2 it may hold what would end the request
// line of HTTP/1.
func validQuery(query string) bool {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func mergeSlashes(s string) string {
	if !strings.Contains(s, "//") {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if s[i] != '/' || i == 0 || s[i-1] != '/' {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// after returns what remains of the escaped path when n bytes of the literal path, which end at a segment's border, are
// taken off.
func (p path) after(n int) string {
	at := 0
	for ; n > 0; n-- {
		if p.escaped[at] == '%' {
			at += 2
		}
		at++
	}
	return p.escaped[at:]
}

// rawPath returns the path of a request target as it was sent; ok is false for "*", authority forms and the like.
func rawPath(requestURI string, u *url.URL) (raw string, ok bool) {
	if strings.HasPrefix(requestURI, "/") {
		raw, _, _ = strings.Cut(requestURI, "?")
		return raw, true
	}
	if u.Host == "" || u.Opaque != "" {
		return "", false
	}
	if raw = u.EscapedPath(); raw == "" {
		raw = "/"
	}
	return raw, true
}
