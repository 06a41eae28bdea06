package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ocsp"

	"github.com/portico-ingress/portico/tls/certstore"
)

// responder is a CA that answers for its certificates, in place of a network.
type responder struct {
	t      *testing.T
	ca     *internalCA
	serial *big.Int
	life   time.Duration

	mu      sync.Mutex // protects the following
	mode    string     // what is wrong with answers; empty: nothing
	asked   int
	changed int
}

func (r *responder) set(mode string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = mode
}

// counts returns how often it was asked, and how often another staple was told.
func (r *responder) counts() (asked, changed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, r.changed
}

func (r *responder) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed++
}

// RoundTrip implements http.RoundTripper.
func (r *responder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.asked++
	mode := r.mode
	r.mu.Unlock()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	question, err := ocsp.ParseRequest(body)
	if err != nil || question.SerialNumber.Cmp(r.serial) != 0 {
		r.t.Errorf("asked for %v, %v", question, err)
	}
	now := time.Now()
	answer := ocsp.Response{Status: ocsp.Good, SerialNumber: r.serial, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(r.life)}
	signer := r.ca
	resp := &http.Response{StatusCode: 200, Header: http.Header{}}
	switch mode {
	case "hang":
		<-req.Context().Done()
		return nil, req.Context().Err()
	case "503":
		resp.StatusCode = 503
	case "revoked":
		answer.Status, answer.RevokedAt = ocsp.Revoked, now
	case "another":
		answer.SerialNumber = big.NewInt(1)
	case "old":
		answer.NextUpdate = now.Add(-time.Second)
	case "future":
		answer.ThisUpdate = now.Add(time.Hour)
	case "forged":
		if signer, err = newCA(&Issuer{Name: "own"}, now); err != nil {
			return nil, err
		}
	}
	text, err := ocsp.CreateResponse(r.ca.cert, signer.cert, answer, signer.key)
	if mode == "long" {
		text = append(text, make([]byte, maxStaple)...)
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp, err
}

// certificate is one of the responder's CA.
func (r *responder) certificate() *certstore.Certificate {
	r.t.Helper()
	issuer := &Issuer{KeyType: DefaultKeyType}
	text, err := issuer.newKey()
	if err != nil {
		r.t.Fatal(err)
	}
	key, _ := parseKey(text)
	leaf, err := signCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.example"}, OCSPServer: []string{"http://ocsp.example/"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * day)}, r.ca.cert, key.Public(), r.ca.key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.serial = leaf.SerialNumber
	cert, err := certstore.Parse(append(encodeCertificate(leaf), encodeCertificate(r.ca.cert)...), text)
	if err != nil {
		r.t.Fatal(err)
	}
	return cert
}

// stapling runs a test with a Stapler that wants one certificate's staple.
func stapling(t *testing.T, mode string, test func(r *responder, s *Stapler, c *certstore.Certificate)) {
	synctest.Test(t, func(t *testing.T) {
		r := &responder{t: t, life: 8 * time.Hour, mode: mode}
		var err error
		if r.ca, err = newCA(&Issuer{Name: "own"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		s := NewStapler(StaplerOptions{Client: &http.Client{Transport: r}, Changed: r.tell, Log: zap.NewNop()})
		c := r.certificate()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Start(ctx) }()
		s.Want([]*certstore.Certificate{c})
		test(r, s, c)
		stop()
		<-done
	})
}

// TestStaple: a response is stapled to a copy, renewed at half of its life, and
// gone with the certificate.
func TestStaple(t *testing.T) {
	stapling(t, "", func(r *responder, s *Stapler, c *certstore.Certificate) {
		synctest.Wait()
		first := s.Stapled(c)
		if first == nil || len(first.TLS.OCSPStaple) == 0 || len(c.TLS.OCSPStaple) != 0 || s.Stapled(c) != first {
			t.Fatalf("%+v", first)
		}
		s.Want([]*certstore.Certificate{c})
		time.Sleep(r.life/2 + time.Second)
		synctest.Wait()
		if second := s.Stapled(c); second == first {
			t.Error("the response is not renewed")
		}
		if asked, changed := r.counts(); asked != 2 || changed != 2 {
			t.Errorf("asked %d times, changed %d times", asked, changed)
		}
		s.Want(nil)
		if s.Stapled(c) != nil {
			t.Error("a certificate that nobody serves has a staple")
		}
	})
}

// TestStaleStaple: a response that cannot be renewed is served to its end, and
// not beyond; a certificate that the CA disowns is stapled no more.
func TestStaleStaple(t *testing.T) {
	stapling(t, "", func(r *responder, s *Stapler, c *certstore.Certificate) {
		synctest.Wait()
		r.set("503")
		time.Sleep(r.life - stapleMargin - time.Second)
		synctest.Wait()
		if s.Stapled(c) == nil {
			t.Error("a response was given up long before its end")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Stapled(c) != nil {
			t.Error("a stale response is stapled")
		}
		if asked, _ := r.counts(); asked < 5 || asked > 20 {
			t.Errorf("asked %d times in %v", asked, r.life)
		}
		r.set("")
		time.Sleep(stapleLongest)
		synctest.Wait()
		if s.Stapled(c) == nil {
			t.Fatal("the responder is back, and there is no staple")
		}
		r.set("revoked")
		time.Sleep(r.life/2 + time.Second)
		synctest.Wait()
		if s.Stapled(c) != nil {
			t.Error("the certificate is revoked, and vouched for")
		}
	})
}

// TestHangingResponder: a responder that does not answer keeps no response beyond
// its end, and holds up no other.
func TestHangingResponder(t *testing.T) {
	stapling(t, "", func(r *responder, s *Stapler, c *certstore.Certificate) {
		synctest.Wait()
		r.set("hang")
		end := r.life - stapleMargin
		time.Sleep(end - time.Second)
		synctest.Wait()
		before, told := r.counts()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		after, toldOfEnd := r.counts()
		if s.Stapled(c) != nil || toldOfEnd == told {
			t.Errorf("a response is served beyond its end: told %d times", toldOfEnd-told)
		}
		if most := int(end/2/stapleFirst) + 1; before < 2 || after > most {
			t.Errorf("asked %d times in %v", after, end/2)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ca, err := newCA(&Issuer{Name: "own"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		slow, quick := &responder{t: t, ca: ca, life: time.Hour, mode: "hang"}, &responder{t: t, ca: ca, life: time.Hour}
		one, two := slow.certificate(), quick.certificate()
		s := NewStapler(StaplerOptions{Log: zap.NewNop(), Client: &http.Client{Transport: eitherOf{slow: slow, quick: quick}}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Start(ctx) }()
		s.Want([]*certstore.Certificate{one})
		synctest.Wait() // it is asked
		s.Want([]*certstore.Certificate{one, two})
		time.Sleep(time.Second)
		synctest.Wait()
		if s.Stapled(two) == nil {
			t.Error("a responder that hangs holds up another")
		}
		stop()
		<-done
	})
}

// eitherOf asks the responder whose certificate it is.
type eitherOf struct{ slow, quick *responder }

func (b eitherOf) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	question, err := ocsp.ParseRequest(body)
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if question.SerialNumber.Cmp(b.slow.serial) == 0 {
		return b.slow.RoundTrip(req)
	}
	return b.quick.RoundTrip(req)
}

// TestBadStaples: what is not good, not for now, not for this certificate or not
// from its CA is never stapled.
func TestBadStaples(t *testing.T) {
	for _, mode := range []string{"503", "revoked", "another", "old", "future", "forged", "long"} {
		stapling(t, mode, func(r *responder, s *Stapler, c *certstore.Certificate) {
			synctest.Wait()
			if asked, _ := r.counts(); asked != 1 || s.Stapled(c) != nil {
				t.Errorf("%s: asked %d times, stapled %v", mode, asked, s.Stapled(c) != nil)
			}
		})
	}
	stapling(t, "", func(r *responder, s *Stapler, c *certstore.Certificate) {
		synctest.Wait()
		alone := *c
		alone.TLS.Certificate = alone.TLS.Certificate[:1]
		s.Want([]*certstore.Certificate{&alone})
		synctest.Wait()
		if asked, _ := r.counts(); asked != 1 || s.Stapled(&alone) != nil {
			t.Errorf("a certificate without its issuer was asked for %d times", asked-1)
		}
	})
}
