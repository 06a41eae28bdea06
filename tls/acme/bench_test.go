package acme

import (
	"crypto/x509"
	"fmt"
	"runtime"
	"testing"
	"time"

	"go.uber.org/zap"
)

// BenchmarkBookkeeping is what 1,000 names cost each time that the Manager looks
// what is due, which it does every 15 s, and the memory that a name takes.
func BenchmarkBookkeeping(b *testing.B) {
	const names = 1000
	issuer := &Issuer{Name: "own", KeyType: DefaultKeyType, Lifetime: 90 * day}
	ca, err := newCA(issuer, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	before := heap()
	m := New(Options{Storage: newFiles(b, b.TempDir()), Tokens: NewTokens(nil), Log: zap.NewNop()})
	m.records = make(map[string]*Record)
	var list []Wanted
	for n := range names {
		w := Wanted{Owner: "shop", Issuer: issuer, Names: []string{fmt.Sprintf("h%d.example", n)}}
		list = append(list, w)
		m.records[w.ID()] = issuedRecord(b, ca, w)
	}
	m.Want(list)
	held := heap() - before
	now := time.Now()
	for b.Loop() {
		m.mu.Lock()
		plan := m.plan(now)
		m.mu.Unlock()
		if len(plan) != names || !plan[0].action.At.After(now) {
			b.Fatalf("%d certificates, the first %+v", len(plan), plan[0].action)
		}
	}
	b.ReportMetric(float64(held)/names, "B/name")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/look.Seconds()*100, "%core")
}

func issuedRecord(b *testing.B, ca *internalCA, w Wanted) *Record {
	b.Helper()
	r := w.record()
	var err error
	if r.Key, err = w.Issuer.newKey(); err != nil {
		b.Fatal(err)
	}
	key, err := parseKey(r.Key)
	if err != nil {
		b.Fatal(err)
	}
	if r.Chain, err = ca.issue(&x509.CertificateRequest{DNSNames: w.Names, PublicKey: key.Public()}, w.Issuer.Lifetime, time.Now()); err != nil {
		b.Fatal(err)
	}
	return r.finish()
}

// heap returns the bytes that are in use.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
