package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/diag"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        Policy
		reasons     []diag.Reason
	}{
		"none":    {nil, Policy{}, nil},
		"foreign": {map[string]string{"kubectl.kubernetes.io/x": "y", "cert-manager.io/issuer": "z"}, Policy{}, nil},
		"off":     {map[string]string{"portico.dev/ssl-redirect": "false"}, Policy{SSLRedirect: Off}, nil},
		"nginx":   {map[string]string{"nginx.ingress.kubernetes.io/ssl-redirect": "true"}, Policy{SSLRedirect: On}, nil},
		"ours win": {map[string]string{"portico.dev/ssl-redirect": "true", "nginx.ingress.kubernetes.io/ssl-redirect": "false"},
			Policy{SSLRedirect: On}, nil},
		"malformed": {map[string]string{"portico.dev/ssl-redirect": "5x"}, Policy{}, []diag.Reason{ReasonInvalid}},
		"unknown":   {map[string]string{"portico.dev/ssl-redirct": "true"}, Policy{}, []diag.Reason{ReasonUnknown}},
		"ignored": {map[string]string{"nginx.ingress.kubernetes.io/proxy-body-size": "8m", "nginx.ingress.kubernetes.io/app-root": "/x"},
			Policy{}, []diag.Reason{ReasonIgnored}},
		"protected": {map[string]string{"nginx.ingress.kubernetes.io/auth-type": "basic"},
			Policy{Refuse: "a protection that the Ingress asks for is not enforced"}, []diag.Reason{ReasonUnenforced}},
		"protected by our own key": {map[string]string{"portico.dev/whitelist-source-range": "10.0.0.0/8"},
			Policy{Refuse: "a protection that the Ingress asks for is not enforced"}, []diag.Reason{ReasonUnenforced}},
		"our own key turns it off": {map[string]string{"portico.dev/auth-tls-verify-client": "off", "nginx.ingress.kubernetes.io/auth-tls-verify-client": "on"}, Policy{}, nil},
		"snippet": {map[string]string{"nginx.ingress.kubernetes.io/configuration-snippet": "deny all;"},
			Policy{Refuse: "a protection that the Ingress asks for is not enforced"}, []diag.Reason{ReasonUnenforced}},
		"everybody is allowed": {map[string]string{"nginx.ingress.kubernetes.io/whitelist-source-range": "0.0.0.0/0,::/0"}, Policy{}, nil},
		"everybody of one family is allowed": {map[string]string{"nginx.ingress.kubernetes.io/whitelist-source-range": "0.0.0.0/0, 10.0.0.0/8"},
			Policy{Refuse: "a protection that the Ingress asks for is not enforced"}, []diag.Reason{ReasonUnenforced}},
		"protection off": {map[string]string{"nginx.ingress.kubernetes.io/auth-tls-verify-client": "off", "nginx.ingress.kubernetes.io/auth-url": ""}, Policy{}, nil},
	} {
		got, problems := Parse(tc.annotations)
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
		var reasons []diag.Reason
		for _, p := range problems {
			reasons = append(reasons, p.Reason)
			if p.Message == "" || p.Remedy == "" || !strings.HasPrefix(p.Field, "metadata.annotations") {
				t.Errorf("%s: %+v", name, p)
			}
		}
		if !slices.Equal(reasons, tc.reasons) {
			t.Errorf("%s: reasons %v, want %v", name, reasons, tc.reasons)
		}
	}
}
