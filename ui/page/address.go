package page

import (
	"net/url"
	"strconv"
	"strings"
)

// URL is the address of the view.
func (q Query) URL() string {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("q", q.Text)
	set("ns", q.Namespace)
	set("conn", q.Connection)
	set("sync", q.Sync)
	if q.Sort != "id" {
		set("sort", q.Sort)
	}
	if q.Page > 1 {
		set("page", strconv.Itoa(q.Page))
	}
	if len(v) == 0 {
		return "/edges"
	}
	return "/edges?" + v.Encode()
}

// Narrowed reports whether something keeps edges out of the view.
func (q Query) Narrowed() bool {
	return q.Text != "" || q.Namespace != "" || q.Connection != "" || q.Sync != ""
}

// withConnection is the view with that state of the axis only, or with all if it had it already.
func (q Query) withConnection(c string) Query {
	if q.Connection == c {
		c = ""
	}
	q.Connection, q.Page = c, 1
	return q
}

// withSync is the same for the other axis.
func (q Query) withSync(s string) Query {
	if q.Sync == s {
		s = ""
	}
	q.Sync, q.Page = s, 1
	return q
}

// sorted is the view sorted by a column, or the other way round if it was.
func (q Query) sorted(column string) Query {
	if q.Sort == column {
		column = "-" + column
	}
	q.Sort, q.Page = column, 1
	return q
}

// turned is another page of the view.
func (q Query) turned(page int) Query {
	q.Page = page
	return q
}

// direction is the value of aria-sort of a column's header; empty if the view is not sorted by it.
func (q Query) direction(column string) string {
	switch q.Sort {
	case column:
		return "ascending"
	case "-" + column:
		return "descending"
	}
	return ""
}

// edgeURL is the address of an edge's page.
func edgeURL(id string) string { return "/edges/" + url.PathEscape(id) }

// pushURL is the address of the form to push a namespace, or all.
func pushURL(namespace string) string {
	if namespace == "" {
		return "/push"
	}
	return "/push?" + url.Values{"scope": {"one"}, "ns": {namespace}}.Encode()
}

// exactly is a pattern that only s matches, for an input's pattern attribute.
func exactly(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`\^$.|?*+()[]{}/`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
