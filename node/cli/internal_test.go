package cli

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	mrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

func TestDiffGivesBothSidesBack(t *testing.T) {
	random := mrand.New(mrand.NewPCG(1, 2))
	for range 500 {
		side := func() []string {
			out := make([]string, random.IntN(30))
			for i := range out {
				out[i] = string(rune('a' + random.IntN(4)))
			}
			return out
		}
		before, after := side(), side()
		var gotBefore, gotAfter []string
		for _, e := range compare(before, after) {
			if e.sign != '+' {
				gotBefore = append(gotBefore, e.text)
			}
			if e.sign != '-' {
				gotAfter = append(gotAfter, e.text)
			}
		}
		if strings.Join(gotBefore, "") != strings.Join(before, "") || strings.Join(gotAfter, "") != strings.Join(after, "") {
			t.Fatalf("%q to %q: got %q and %q", before, after, gotBefore, gotAfter)
		}
	}
}

func TestUnifiedDiff(t *testing.T) {
	before := "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n20\n"
	after := strings.NewReplacer("\n2\n", "\ntwo\n", "\n15\n", "\n", "\n17\n", "\n17\nnew\n").Replace(before)
	want := `@@ -1,5 +1,5 @@
 1
-2
+two
 3
 4
 5
@@ -12,9 +12,9 @@
 12
 13
 14
-15
 16
 17
+new
 18
 19
 20
`
	if got := unified(before, after); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := unified(before, before); got != "" {
		t.Errorf("equal texts: got %q", got)
	}
	if got, want := unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n"; got != want {
		t.Errorf("new: got %q, want %q", got, want)
	}
	if got, want := unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n"; got != want {
		t.Errorf("gone: got %q, want %q", got, want)
	}
}

func TestHugeDiffsStayBounded(t *testing.T) {
	before, after := strings.Repeat("a\n", 3000), strings.Repeat("b\n", 3000)
	if got := strings.Count(unified(before, after), "\n"); got != 6001 {
		t.Errorf("got %d lines", got)
	}
}

// Every enum of the API must have short words, or programs would see them change when a prefix is forgotten.
func TestEnumWordsAreShort(t *testing.T) {
	enums := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("gw.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Enums().Len() {
			enums++
			e := f.Enums().Get(i)
			if got := enumWord(e, 0); got != "" {
				t.Errorf("%s: unspecified is %q", e.Name(), got)
			}
			for j := 1; j < e.Values().Len(); j++ {
				word := enumWord(e, e.Values().Get(j).Number())
				if strings.HasPrefix(word, strings.ToLower(string(e.Name()))+"_") || enumOf(e, word) != e.Values().Get(j).Number() {
					t.Errorf("%s has the word %q", e.Values().Get(j).Name(), word)
				}
			}
		}
		return true
	})
	if enums == 0 {
		t.Error("no enums found")
	}
	if got := word(gwv1.Change(99)); got != "99" {
		t.Errorf("unknown value: got %q", got)
	}
}

func TestPinnedChains(t *testing.T) {
	now := time.Now()
	ca, err := identity.NewCA("one", now)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := ca.IssueHub("hub-1", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	edge, err := ca.SignEdge(csr, identity.Edge{ClusterID: "one", Namespace: "default", ID: "edge-1"}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	hubLeaf := leafOf(t, hub)
	company, web := companyCA(t, now)
	for name, test := range map[string]struct {
		chain  []*x509.Certificate
		pinned *x509.Certificate
		host   string
		ok     bool
	}{
		"hub by its CA":                {[]*x509.Certificate{hubLeaf, ca.Certificate}, ca.Certificate, "10.0.0.1", true},
		"hub by itself":                {[]*x509.Certificate{hubLeaf}, hubLeaf, "10.0.0.1", true},
		"edge pretending to be a hub":  {[]*x509.Certificate{edge, ca.Certificate}, ca.Certificate, "10.0.0.1", false},
		"CA that did not sign":         {[]*x509.Certificate{web, ca.Certificate}, ca.Certificate, "hub.example", false},
		"not the pinned one":           {[]*x509.Certificate{hubLeaf, ca.Certificate}, company, "10.0.0.1", false},
		"company CA, right host":       {[]*x509.Certificate{web, company}, company, "hub.example", true},
		"company CA, some other's web": {[]*x509.Certificate{web, company}, company, "gw.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := verifyPinned(test.chain, identity.PinOf(test.pinned), test.host); (err == nil) != test.ok {
				t.Errorf("got %v, want ok %v", err, test.ok)
			}
		})
	}
	if err := verifyPinned(nil, identity.Pin{}, "x"); !errors.Is(err, errWrongPin) {
		t.Errorf("no chain: got %v", err)
	}
	for _, s := range []server{{chain: []*x509.Certificate{hubLeaf, ca.Certificate}}, {chain: []*x509.Certificate{web, company}}} {
		if got := s.pinnable("hub.example"); !got.IsCA {
			t.Errorf("pins %s, want its CA", got.Subject)
		}
		if got := (server{chain: s.chain[:1]}).pinnable("hub.example"); got != s.chain[0] {
			t.Errorf("pins %s, want the certificate itself", got.Subject)
		}
	}
	if got := (server{chain: []*x509.Certificate{web, company}}).pinnable("gw.example"); got != web {
		t.Errorf("pins %s although it does not vouch for the host", got.Subject)
	}
}

func leafOf(t *testing.T, c tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// companyCA returns a CA that signs for anybody, and a web server's certificate of it for hub.example.
func companyCA(t *testing.T, now time.Time) (ca, web *x509.Certificate) {
	t.Helper()
	signer, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "company"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = sign(root, root, &signer.PublicKey)
	return ca, sign(&x509.Certificate{Subject: pkix.Name{CommonName: "web"}, DNSNames: []string{"hub.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, &key.PublicKey)
}

func TestHubAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"localhost:7070":             "http://localhost:7070",
		"127.0.0.1:7070":             "http://127.0.0.1:7070",
		"[::1]:7070":                 "http://[::1]:7070",
		"hub.example":                "https://hub.example",
		"hub.example:7070/":          "https://hub.example:7070",
		"http://hub.example/behind/": "http://hub.example/behind",
		"https://127.0.0.1":          "https://127.0.0.1",
		"":                           "",
		"ftp://x":                    "",
		"https://u:p@x":              "",
		"https://x?y":                "",
		"https://":                   "",
		"%":                          "",
	} {
		u, err := parseHub(text)
		if want == "" {
			if ExitCode(err) != ExitUsage {
				t.Errorf("%q: got %v, %v, want a usage error", text, u, err)
			}
		} else if err != nil || u.String() != want {
			t.Errorf("%q: got %v, %v, want %s", text, u, err, want)
		}
	}
}

func TestShares(t *testing.T) {
	for text, want := range map[string]share{"100%": 100, "1%": 1, "50": 50, "0%": 0, "101%": 0, "-1": 0, "all": 0, "": 0} {
		var s share
		if err := s.UnmarshalText([]byte(text)); (err == nil) != (want > 0) || s != want {
			t.Errorf("%q: got %d, %v, want %d", text, s, err, want)
		}
	}
	for _, test := range []struct{ percent, edges, want int }{{100, 3, 3}, {66, 3, 2}, {67, 3, 3}, {1, 3, 1}, {50, 0, 0}} {
		if got := share(test.percent).of(test.edges); got != test.want {
			t.Errorf("%d%% of %d: got %d, want %d", test.percent, test.edges, got, test.want)
		}
	}
}

func FuzzParsePin(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("ab", 32))
	f.Add(strings.Repeat("AB:", 31) + "AB")
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, text string) {
		pin, err := parsePin(text)
		if err != nil {
			return
		}
		if again, err := parsePin(formatPin(pin)); err != nil || again != pin {
			t.Errorf("%q: got %x, then %x, %v", text, pin, again, err)
		}
	})
}

func FuzzParseHub(f *testing.F) {
	f.Add("https://hub.example:7070/x")
	f.Add("localhost")
	f.Add("[::1%25eth0]:1")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseHub(text)
		if err != nil {
			return
		}
		if again, err := parseHub(u.String()); err != nil || again.String() != u.String() {
			t.Errorf("%q is %s, which is %v, %v", text, u, again, err)
		}
	})
}
