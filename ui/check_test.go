package ui

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// document is a parsed page, with what tests ask of it.
type document struct {
	t    testing.TB
	root *html.Node
	raw  string
}

func parse(t testing.TB, raw string) *document {
	t.Helper()
	root, err := html.Parse(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return &document{t, root, raw}
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

// all returns the elements of a tag that have the attributes, given as "name=value" or "name"; tag "*" is any.
func (d *document) all(tag string, attributes ...string) (found []*html.Node) {
	for n := range d.root.Descendants() {
		if n.Type != html.ElementNode || tag != "*" && n.Data != tag {
			continue
		}
		if !slices.ContainsFunc(attributes, func(want string) bool {
			name, value, exact := strings.Cut(want, "=")
			return !has(n, name) || exact && attr(n, name) != value
		}) {
			found = append(found, n)
		}
	}
	return found
}

// one returns the only such element.
func (d *document) one(tag string, attributes ...string) *html.Node {
	d.t.Helper()
	found := d.all(tag, attributes...)
	if len(found) != 1 {
		d.t.Fatalf("%d elements <%s %v>, want 1", len(found), tag, attributes)
	}
	return found[0]
}

// text returns the words in an element, with single spaces.
func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func (d *document) wantText(want string) {
	d.t.Helper()
	if all := text(d.root); !strings.Contains(all, want) {
		d.t.Errorf("page does not say %q; it says: %.600s", want, all)
	}
}

var foreign = regexp.MustCompile(`(?i)^([a-z]+:)?[/\\\\]{2}`)

// sound checks what must hold for every page, whatever it shows.
func (d *document) sound() {
	d.t.Helper()
	for _, tag := range []string{"h1", "main", "title", "html"} {
		if n := len(d.all(tag)); n != 1 {
			d.t.Errorf("%d <%s>, want 1", n, tag)
		}
	}
	if attr(d.one("html"), "lang") == "" {
		d.t.Error("no language")
	}
	seen := map[string]bool{}
	for n := range d.root.Descendants() {
		if n.Type == html.ElementNode {
			d.element(n, seen)
		}
	}
	for n := range d.root.Descendants() {
		for _, name := range []string{"for", "aria-labelledby", "aria-describedby", "popovertarget", "commandfor"} {
			if id := attr(n, name); id != "" && !seen[id] && id != "dialog-h" {
				d.t.Errorf("<%s %s=%q> points nowhere", n.Data, name, id)
			}
		}
	}
}

func (d *document) element(n *html.Node, seen map[string]bool) {
	d.t.Helper()
	if n.Data == "style" || n.Data == "script" && (n.FirstChild != nil || attr(n, "src") == "") {
		d.t.Errorf("inline <%s>", n.Data)
	}
	if id := attr(n, "id"); id != "" && seen[id] {
		d.t.Errorf("id %q twice", id)
	} else if id != "" {
		seen[id] = true
	}
	for _, a := range n.Attr {
		switch {
		case a.Key == "style", strings.HasPrefix(a.Key, "on"):
			d.t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
		case slices.Contains([]string{"href", "src", "action", "formaction", "hx-get", "hx-post", "hx-sse:connect"}, a.Key) && (foreign.MatchString(a.Val) || !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#")):
			d.t.Errorf("<%s %s=%q> leaves the origin", n.Data, a.Key, a.Val)
		}
	}
	switch n.Data {
	case "input", "select", "textarea":
		if attr(n, "type") != "hidden" && !d.labelled(n) {
			d.t.Errorf("<%s name=%q> has no label", n.Data, attr(n, "name"))
		}
	case "button", "a":
		if text(n) == "" && attr(n, "aria-label") == "" {
			d.t.Errorf("<%s> has no name", n.Data)
		}
	case "th":
		if attr(n, "scope") == "" {
			d.t.Error("<th> without scope")
		}
	case "nav", "section":
		if attr(n, "aria-label") == "" && attr(n, "aria-labelledby") == "" && n.Data == "nav" {
			d.t.Errorf("<%s> without a name", n.Data)
		}
	}
}

func (d *document) labelled(n *html.Node) bool {
	if attr(n, "aria-label") != "" || attr(n, "aria-labelledby") != "" {
		return true
	}
	for p := n.Parent; p != nil; p = p.Parent {
		if p.Data == "label" && text(p) != "" {
			return true
		}
	}
	return attr(n, "id") != "" && len(d.all("label", "for="+attr(n, "id"))) == 1
}
