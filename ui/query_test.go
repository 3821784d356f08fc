package ui

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzQueryReadsWhatItWrites(f *testing.F) {
	f.Add("q=edge&ns=eu&conn=stale&sync=in-sync&sort=-heartbeat&page=3")
	f.Add("page=-1&sort=--id&conn=x&q=%ff")
	f.Add("q=+a+&q=b;c")
	f.Fuzz(func(t *testing.T, raw string) {
		v, _ := url.ParseQuery(raw)
		q := parseQuery(v)
		if !utf8.ValidString(q.Text+q.Namespace) || len(q.Text) > 256 || q.Page < 1 || q.Page > maxPages {
			t.Errorf("%q gives %+v", raw, q)
		}
		u, err := url.Parse(q.URL())
		if err != nil {
			t.Fatal(err)
		}
		if again := parseQuery(u.Query()); again != q {
			t.Errorf("%+v is written as %s and read as %+v", q, q.URL(), again)
		}
	})
}

func FuzzLocalPathStaysOnTheOrigin(f *testing.F) {
	for _, s := range []string{"/edges?q=1", "//evil", `/\evil`, "http://evil", "/%2f%2fevil", "/..//evil", "/\n/evil"} {
		f.Add(s)
	}
	base, _ := url.Parse("https://hub.example/login")
	f.Fuzz(func(t *testing.T, s string) {
		got := localPath(s)
		to, err := base.Parse(got)
		if err != nil || to.Scheme != "https" || to.Host != "hub.example" || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") {
			t.Errorf("localPath(%q) = %q leads to %v", s, got, to)
		}
	})
}
