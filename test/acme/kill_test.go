//go:build acme

package acme

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/test/pebble"
)

// moments are the steps of an order at which its process dies: before the CA
// hears of the step, or after it has acted and before its answer arrives.
var moments = []struct {
	kind  string
	after bool
}{
	{"directory", false}, {"account", false}, {"account", true}, {"order", false}, {"order", true}, {"authz", false},
	{"challenge", false}, {"challenge", true}, {"finalize", false}, {"finalize", true}, {"poll", false}, {"certificate", false}, {"certificate", true},
}

// watchOrders has the test fail where a second order is placed for a set of names,
// but for one more each time that one was in flight when something happened; or
// where a CSR is sent whose key is not stored. act is asked of every call.
func (f *fleet) watchOrders(act func(*pebble.Call) pebble.Verdict) (disturbed func()) {
	var mu sync.Mutex
	placed, more := make(map[string]int), make(map[string]int)
	f.ca.Hook(func(c *pebble.Call) pebble.Verdict {
		if names := c.Names(); c.Kind == "order" && c.After && c.Status == 201 {
			mu.Lock()
			if placed[names]++; placed[names] > 1+more[names] {
				f.t.Errorf("order %d for %s, and one was in flight at %d disturbances", placed[names], names, more[names])
			}
			mu.Unlock()
		}
		if c.Kind == "finalize" && !c.After {
			f.checkKeyStored(c.Body)
		}
		return act(c)
	})
	return func() {
		inFlight := f.inFlight()
		mu.Lock()
		defer mu.Unlock()
		for _, names := range inFlight {
			more[names]++
		}
	}
}

// inFlight returns the sets of names that are being ordered, as the storage says.
func (f *fleet) inFlight() (names []string) {
	for _, s := range f.records() {
		var record struct {
			Names []string
			Order *struct{}
		}
		if err := json.Unmarshal(s.Data["record"], &record); err != nil {
			f.t.Errorf("a record: %v", err)
		}
		if record.Order != nil {
			names = append(names, strings.Join(record.Names, ","))
		}
	}
	return names
}

func (f *fleet) records() []corev1.Secret {
	var stored corev1.SecretList
	if err := f.client.List(f.t.Context(), &stored, client.InNamespace(f.storage), client.MatchingLabels{"portico.dev/acme": "record"}); err != nil {
		f.t.Errorf("reading the storage: %v", err)
	}
	return stored.Items
}

// checkKeyStored fails unless the key of a CSR is in the storage.
func (f *fleet) checkKeyStored(body []byte) {
	var finalize struct{ CSR string }
	if err := json.Unmarshal(body, &finalize); err != nil {
		return // a nonce that is tried again, or a poll
	}
	der, _ := base64.RawURLEncoding.DecodeString(finalize.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		f.t.Errorf("a CSR that cannot be read: %v", err)
		return
	}
	for _, s := range f.records() {
		block, _ := pem.Decode(s.Data["next.key"])
		if block == nil {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if signer, ok := key.(crypto.Signer); err == nil && ok && signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(csr.PublicKey) {
			return
		}
	}
	f.t.Errorf("a CSR for %v was sent before its key was stored", csr.DNSNames)
}

// TestKilledAtEachStep: whenever the process that orders is killed, another one
// finishes or orders once more, with the same account.
func TestKilledAtEachStep(t *testing.T) {
	for _, m := range moments {
		name := "before "
		if m.after {
			name = "after "
		}
		t.Run(name+m.kind, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2, pebble.Options{})
			killed := make(chan struct{})
			var once sync.Once
			var disturbed func()
			ready := make(chan struct{})
			disturbed = f.watchOrders(func(c *pebble.Call) (v pebble.Verdict) {
				if c.Kind != m.kind || c.After != m.after {
					return v
				}
				once.Do(func() {
					<-ready
					r := f.dismiss()
					if r == nil {
						t.Error("nobody leads, and something is ordered")
						return
					}
					r.kill()
					disturbed()
					v.Drop = true
					close(killed)
				})
				return v
			})
			close(ready)
			hosts := []string{"a.example", "b.example"}
			f.ingress("web", hosts...)
			f.until("the kill", func() error {
				select {
				case <-killed:
					return nil
				default:
					return errors.New("the step was not reached")
				}
			})
			f.start()
			f.waitServed("web", hosts...)
			if n := f.ca.Orders()[strings.Join(hosts, ",")]; n > 2 {
				t.Errorf("%d orders for one kill", n)
			}
			if n := f.accounts(); n != 1 {
				t.Errorf("%d accounts", n)
			}
		})
	}
}

// TestManyAtOnce: Ingresses that come at once are all served by all replicas,
// although one that orders is killed and the next one loses the apiserver.
func TestManyAtOnce(t *testing.T) {
	f := newFleet(t, 3, pebble.Options{NonceReject: 20})
	n := count(t, "PORTICO_ACME_INGRESSES", 9)
	done := make(chan int, 16*n)
	disturbed := f.watchOrders(func(c *pebble.Call) pebble.Verdict {
		if c.Kind == "certificate" && c.After && c.Status == 200 {
			done <- 1
		}
		return pebble.Verdict{}
	})
	host := func(i int) string { return fmt.Sprintf("h%d.example", i) }
	for i := range n {
		f.ingress(fmt.Sprint("web", i), host(i))
	}
	for range n / 3 {
		<-done
	}
	r := f.dismiss()
	r.kill()
	disturbed()
	f.start()
	for range n / 3 {
		<-done
	}
	var lost *replica
	f.until("another leads", func() error {
		if lost = f.dismiss(); lost == nil {
			return fmt.Errorf("nobody leads")
		}
		return nil
	})
	lost.apiserver.cut()
	disturbed()
	f.start()
	for i := range n {
		f.waitServed(fmt.Sprint("web", i), host(i))
	}
	for _, c := range f.ca.Calls("order") {
		if !strings.HasPrefix(c.From, "portico/") {
			t.Errorf("the CA is asked by %q", c.From)
		}
	}
	if n := f.accounts(); n != 1 {
		t.Errorf("%d accounts", n)
	}
	if leaf, err := lost.serves(host(0)); err != nil || leaf.VerifyHostname(host(0)) != nil {
		t.Errorf("who lost the apiserver serves %v, %v", leaf, err)
	}
}
