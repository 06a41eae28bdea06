package translate_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/upstream"
)

// TestDefaultBackendOfNoUse: no Ingress leads to --default-backend-service, so
// what is wrong with it is a problem of its own.
func TestDefaultBackendOfNoUse(t *testing.T) {
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, c := range []struct{ service, port, want string }{
		{"web", "80", ""},
		{"web", "http", "has no TCP port http"},
		{"missing", "80", "Service shop/missing does not exist"},
	} {
		w := translate.All(translate.Options{}, &translate.Objects{Services: []*corev1.Service{web}},
			upstream.Key{Namespace: "shop", Service: c.service, Port: c.port})
		if c.want == "" {
			if len(w.Problems) != 0 {
				t.Errorf("%s:%s: %v", c.service, c.port, w.Problems)
			}
			continue
		}
		if len(w.Problems) != 1 || !strings.Contains(w.Problems[0].Message, c.want) || w.Problems[0].Remedy == "" ||
			w.Problems[0].Object.String() != "Service shop/"+c.service {
			t.Errorf("%s:%s: problems %v, want one with %q", c.service, c.port, w.Problems, c.want)
		}
	}
}
