package envtest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/tls/certstore"
)

// keyPair makes a self-signed certificate; the common name tells certificates
// for the same host apart.
func keyPair(t testing.TB, name string, hosts ...string) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     hosts,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}

func (c *cluster) secret(namespace, name string, kind corev1.SecretType, data map[string][]byte) *corev1.Secret {
	c.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: kind, Data: data}
	c.create(s)
	return s
}

// waitCertificate waits until a handshake for the host gets the certificate
// with that common name; "" stands for the self-signed one.
func (in *instance) waitCertificate(host, want string) {
	in.t.Helper()
	eventually(in.t, func() error {
		s := in.certs.Select(host)
		got := s.Certificate.Leaf.Subject.CommonName
		if s.Source == "self-signed" {
			got = ""
		}
		if got != want {
			return fmt.Errorf("%s gets certificate %q (%s), want %q", host, got, s.Why, want)
		}
		return nil
	})
}

func TestSecretRotation(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("shop-tls", "shop.example"))
	secret := c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "first", "shop.example"))
	in := c.start()
	in.waitCertificate("shop.example", "first")
	update(c, secret, func(s *corev1.Secret) { s.Data = keyPair(t, "second", "shop.example") })
	in.waitCertificate("shop.example", "second")
	update(c, secret, func(s *corev1.Secret) { s.Data[corev1.TLSCertKey] = []byte("rubbish") })
	in.waitCertificate("shop.example", "")
	c.delete(secret)
	c.waitReason("web", string(certstore.ReasonUnusable))
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "third", "shop.example"))
	in.waitCertificate("shop.example", "third")
}

// waitReason waits for an Event with that reason.
func (c *cluster) waitReason(name, reason string) {
	c.t.Helper()
	eventually(c.t, func() error {
		for _, e := range c.events(name) {
			if e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("no Event %s about %s", reason, name)
	})
}

// Secrets of other types are found by name, before and after they exist, and
// in place of one another.
func TestSecretOfOtherType(t *testing.T) {
	c := newCluster(t)
	elsewhere := c.newNamespace()
	c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("shop-tls", "shop.example"))
	c.secret(elsewhere, "fallback", corev1.SecretTypeOpaque, keyPair(t, "fallback", "fallback.example"))
	in := c.start(func(s *settings) { s.defaultTLS = certstore.SecretRef{Namespace: elsewhere, Name: "fallback"} })
	in.waitCertificate("unknown.example", "fallback")

	opaque := c.secret(c.namespace, "shop-tls", corev1.SecretTypeOpaque, keyPair(t, "opaque", "shop.example"))
	in.waitCertificate("shop.example", "opaque")
	update(c, opaque, func(s *corev1.Secret) { s.Data = keyPair(t, "rotated", "shop.example") })
	in.waitCertificate("shop.example", "rotated")
	c.delete(opaque)
	in.waitCertificate("shop.example", "fallback")
	typed := c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "typed", "shop.example"))
	in.waitCertificate("shop.example", "typed")
	c.delete(typed)
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeOpaque, keyPair(t, "opaque again", "shop.example"))
	in.waitCertificate("shop.example", "opaque again")
}

// A recorder keeps the requests for Secrets that an instance makes.
type recorder struct {
	next http.RoundTripper

	mu   sync.Mutex // protects the following
	seen []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if slices.Contains(strings.Split(req.URL.Path, "/"), "secrets") {
		r.mu.Lock()
		r.seen = append(r.seen, req.URL.String())
		r.mu.Unlock()
	}
	return r.next.RoundTrip(req)
}

func TestSecretsAreNeverAllRead(t *testing.T) {
	c := newCluster(t)
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "typed", "shop.example"))
	c.secret(c.namespace, "other", corev1.SecretTypeOpaque, keyPair(t, "opaque", "other.example"))
	c.ingress("web", rule("shop.example", prefix, "/", "one"), tlsFor("shop-tls", "shop.example"), tlsFor("other", "other.example"))
	rec := &recorder{}
	in := c.start(func(s *settings) {
		s.config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			rec.next = next
			return rec
		}
	})
	in.waitCertificate("shop.example", "typed")
	in.waitCertificate("other.example", "opaque")
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.seen) == 0 {
		t.Fatal("no request for Secrets was seen")
	}
	for _, u := range rec.seen {
		if !strings.Contains(u, "fieldSelector=type%3Dkubernetes.io%2Ftls") && !strings.Contains(u, "fieldSelector=metadata.name%3Dother") {
			t.Errorf("a request without the field selector: %s", u)
		}
	}
}

// A namespace whose Secrets may not be read loses its certificates and nothing
// else, until they may be read.
func TestRefusedSecrets(t *testing.T) {
	c := newCluster(t)
	closed := c.newNamespace()
	user := c.namespace + "-user"
	c.bindWithoutSecrets(user)
	c.bindSecrets(user, c.namespace)

	c.echoService("one")
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "open", "open.example"))
	c.secret(closed, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "closed", "closed.example"))
	c.ingress("open", rule("open.example", prefix, "/", "one"), tlsFor("shop-tls", "open.example"))
	c.ingressIn(closed, "closed", rule("closed.example", prefix, "/", "one"), tlsFor("shop-tls", "closed.example"))
	in := c.start(func(s *settings) {
		s.config = envtest.User(t, user)
		s.namespaces = []string{c.namespace, closed}
	})
	in.waitURL("https://open.example/", "one")
	in.waitURL("https://closed.example/", "503") // no Service there, but a route
	in.waitCertificate("open.example", "open")
	in.waitCertificate("closed.example", "")
	if why := in.certs.Select("closed.example").Why; !strings.Contains(why, "cannot be read") || !strings.Contains(why, closed) {
		t.Errorf("the reason is %q", why)
	}
	ready, detail := in.check("secrets[" + closed + "]")
	if !ready || !strings.Contains(detail, "refused") {
		t.Errorf("readiness of the refused scope: %v, %q", ready, detail)
	}
	if ready, detail := in.check("secrets[" + c.namespace + "]"); !ready || detail != "" {
		t.Errorf("readiness of the other scope: %v, %q", ready, detail)
	}

	c.bindSecrets(user, closed)
	in.waitCertificate("closed.example", "closed")
	eventually(t, func() error {
		if _, detail := in.check("secrets[" + closed + "]"); detail != "" {
			return errNotYet(detail)
		}
		return nil
	})
}

// Where Secrets may be read only one by one, each is, and readiness says so.
func TestSecretsAllowedByName(t *testing.T) {
	c := newCluster(t)
	user := c.namespace + "-user"
	c.bindWithoutSecrets(user)
	c.bindSecrets(user, c.namespace, "allowed")
	c.secret(c.namespace, "allowed", corev1.SecretTypeTLS, keyPair(t, "allowed", "allowed.example"))
	c.secret(c.namespace, "denied", corev1.SecretTypeTLS, keyPair(t, "denied", "denied.example"))
	c.ingress("web", rule("allowed.example", prefix, "/", "one"), tlsFor("allowed", "allowed.example"), tlsFor("denied", "denied.example"))
	in := c.start(func(s *settings) {
		s.config = envtest.User(t, user)
		s.namespaces = nil
	})
	in.waitCertificate("allowed.example", "allowed")
	in.waitCertificate("denied.example", "")
	eventually(t, func() error { return in.waitsFor() })
	if _, detail := in.check("secrets"); !strings.Contains(detail, "refused") {
		t.Errorf("readiness says %q of a refused cluster", detail)
	}
	if _, detail := in.check("secrets by name"); !strings.Contains(detail, "1 refused") {
		t.Errorf("readiness says %q of Secrets by name", detail)
	}
	c.waitReason("web", string(certstore.ReasonUnusable))
}

// Where the namespaces of Secrets are given, the cluster is never asked for
// more, and what is outside says which flag lists them.
func TestSecretNamespaces(t *testing.T) {
	c := newCluster(t)
	closed := c.newNamespace()
	user := c.namespace + "-user"
	c.bindWithoutSecrets(user)
	c.bindSecrets(user, c.namespace)
	c.bindSecrets(user, closed) // not the way it is kept out
	c.secret(c.namespace, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "open", "open.example"))
	c.secret(closed, "shop-tls", corev1.SecretTypeTLS, keyPair(t, "closed", "closed.example"))
	c.secret(closed, "default", corev1.SecretTypeTLS, keyPair(t, "default", "default.example"))
	c.ingress("open", rule("open.example", prefix, "/", "one"), tlsFor("shop-tls", "open.example"))
	web := c.ingressIn(closed, "closed", rule("closed.example", prefix, "/", "one"), tlsFor("shop-tls", "closed.example"))
	in := c.start(func(s *settings) {
		s.config = envtest.User(t, user)
		s.namespaces, s.secrets = nil, []string{c.namespace}
		s.defaultTLS = certstore.SecretRef{Namespace: closed, Name: "default"}
	})
	in.waitCertificate("open.example", "open")
	in.waitCertificate("other.example", "default")
	eventually(t, func() error {
		if why := in.certs.Select("closed.example").Why; !strings.Contains(why, "no Secrets of namespace "+closed+" are read; --secret-namespaces") {
			return errNotYet("the reason is " + why)
		}
		return in.waitsFor()
	})
	if ready, detail := in.check("secrets[" + c.namespace + "]"); !ready || detail != "" {
		t.Errorf("readiness of the scope: %v, %q", ready, detail)
	}
	for _, check := range in.follows.Ready() {
		if check.Name == "secrets" || strings.Contains(check.Detail, "refused") {
			t.Errorf("asked for more than the list: %+v", check)
		}
	}
	c.delete(web)
	eventually(t, func() error {
		if why := in.certs.Select("closed.example").Why; strings.Contains(why, "--secret-namespaces") {
			return errNotYet("still told: " + why)
		}
		return nil
	})
}

func (in *instance) check(name string) (ready bool, detail string) {
	in.t.Helper()
	for _, check := range in.follows.Ready() {
		if check.Name == name {
			return check.Ready, check.Detail
		}
	}
	in.t.Fatalf("no check %q in %v", name, in.follows.Ready())
	return false, ""
}

// bindWithoutSecrets gives a user what config/rbac gives us, but no Secrets.
func (c *cluster) bindWithoutSecrets(user string) {
	c.t.Helper()
	role := shippedRoles(c.t).cluster
	role.ObjectMeta = metav1.ObjectMeta{Name: user}
	for i := range role.Rules {
		r := &role.Rules[i]
		var kept []string
		for _, resource := range r.Resources {
			if resource != "secrets" {
				kept = append(kept, resource)
			}
		}
		r.Resources = kept
	}
	c.create(role)
	c.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
	})
}

// bindSecrets lets a user read the Secrets of a namespace, all or those named.
func (c *cluster) bindSecrets(user, namespace string, names ...string) {
	c.t.Helper()
	c.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "secrets"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: names, Verbs: []string{"list", "watch"}}},
	})
	c.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "secrets"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "secrets"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}},
	})
}
