package envtest_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/test/testcert"
)

// waitCredentials waits until backends are verified, or are not, by what is in
// a Secret.
func (in *instance) waitCredentials(ref upstream.SecretRef, want *testcert.CA) {
	in.t.Helper()
	eventually(in.t, func() error {
		c := in.registry.Credentials(ref)
		switch {
		case want == nil && c == nil:
			return nil
		case want == nil || c == nil || c.CA == nil || !c.CA.Equal(want.Pool()):
			return fmt.Errorf("%s holds %v", ref, c)
		}
		return nil
	})
}

// TestBackendSecret: the CA for backends is followed, whatever the type of its
// Secret, and an Event says when it is of no use.
func TestBackendSecret(t *testing.T) {
	c := newCluster(t)
	c.echoService("one")
	c.ingress("web", rule("shop.example", prefix, "/", "one"), func(ing *networkingv1.Ingress) {
		ing.Annotations = map[string]string{"portico.dev/backend-protocol": "HTTPS", "portico.dev/proxy-ssl-secret": "backend-ca"}
	})
	ref := upstream.SecretRef{Namespace: c.namespace, Name: "backend-ca"}
	in := c.start()
	in.waitCredentials(ref, nil)
	c.waitReason("web", string(translate.ReasonBackendSecret))
	first, second := testcert.New(t), testcert.New(t)
	holds := func(ca *testcert.CA) map[string][]byte { return map[string][]byte{"ca.crt": testcert.PEM(ca.Cert)} }
	secret := c.secret(c.namespace, "backend-ca", corev1.SecretTypeOpaque, holds(first))
	in.waitCredentials(ref, first)
	update(c, secret, func(s *corev1.Secret) { s.Data = holds(second) })
	in.waitCredentials(ref, second)
	c.delete(secret)
	in.waitCredentials(ref, nil)
	typed := keyPair(t, "client", "client.example")
	typed["ca.crt"] = testcert.PEM(first.Cert)
	c.secret(c.namespace, "backend-ca", corev1.SecretTypeTLS, typed)
	in.waitCredentials(ref, first)
	if in.registry.Credentials(ref).Certificate == nil {
		t.Error("the client certificate is missing")
	}
}
