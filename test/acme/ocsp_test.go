//go:build acme

package acme

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/portico-ingress/portico/test/pebble"
)

// TestStapled: the response of the responder that a certificate names is stapled
// by every replica. A responder that says something of no use costs the staple,
// and never a handshake.
func TestStapled(t *testing.T) {
	type signer struct {
		cert *x509.Certificate
		key  crypto.Signer
	}
	var ca atomic.Pointer[signer] // nil: nobody answers
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signer := ca.Load()
		body, err := io.ReadAll(r.Body)
		if err != nil || signer == nil {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		question, err := ocsp.ParseRequest(body)
		if err != nil {
			t.Errorf("a request: %v", err)
			return
		}
		answer, err := ocsp.CreateResponse(signer.cert, signer.cert, ocsp.Response{
			Status: ocsp.Good, SerialNumber: question.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(20 * time.Second),
		}, signer.key)
		if err != nil {
			t.Errorf("an answer: %v", err)
		}
		_, _ = w.Write(answer)
	}))
	defer responder.Close()
	f := newFleet(t, 2, pebble.Options{OCSP: responder.URL})
	issuer, key := f.ca.Intermediate()
	ca.Store(&signer{issuer, key})
	f.ingress("web", "a.example")
	f.waitServed("web", "a.example")
	staple := func(r *replica) ([]byte, error) {
		conn, err := tls.Dial("tcp", r.https, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("a handshake failed: %v", err)
		}
		defer conn.Close()
		s := conn.ConnectionState()
		if len(s.OCSPResponse) == 0 {
			return nil, errors.New("nothing is stapled")
		}
		_, err = ocsp.ParseResponseForCert(s.OCSPResponse, s.PeerCertificates[0], issuer)
		return s.OCSPResponse, err
	}
	for _, r := range f.replicas {
		f.until("a staple", func() error { _, err := staple(r); return err })
	}
	ca.Store(nil)
	for _, r := range f.replicas {
		f.until("the end of the staple", func() error {
			text, err := staple(r)
			if err != nil {
				return nil
			}
			response, err := ocsp.ParseResponse(text, nil)
			if err == nil && time.Now().After(response.NextUpdate.Add(time.Second)) {
				t.Error("a staple that has ended is served")
			}
			return fmt.Errorf("stapled until %v, %v", response.NextUpdate, err)
		})
	}
}
