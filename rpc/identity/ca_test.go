package identity

import (
	"crypto/x509"
	"testing"
	"time"
)

func TestE4_CertificatesTolerateClocksThatAreFiveMinutesBehind(t *testing.T) {
	now := time.Now()
	ca, err := NewCA("c", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	edge, err := ca.SignEdge(csr, Edge{ClusterID: "c", Namespace: "default", ID: "e"}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := ca.IssueHub("h", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	for name, leaf := range map[string]*x509.Certificate{"edge": edge, "hub": hub.Leaf, "CA": ca.Certificate} {
		for behind, want := range map[time.Duration]bool{0: true, 5*time.Minute - 2*time.Second: true, 6 * time.Minute: false} {
			_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now.Add(-behind), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if (err == nil) != want {
				t.Errorf("the %s's certificate at a clock %v behind: %v", name, behind, err)
			}
		}
	}
}
