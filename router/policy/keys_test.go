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
		"malformed protection": {map[string]string{"portico.dev/proxy-ssl-verify": "maybe"},
			Policy{Refuse: "annotation proxy-ssl-verify is malformed"}, []diag.Reason{ReasonInvalid}},
		"backends": {map[string]string{"nginx.ingress.kubernetes.io/backend-protocol": "grpcs", "nginx.ingress.kubernetes.io/proxy-ssl-secret": "shop/ca",
			"portico.dev/proxy-ssl-name": "Web.example.", "nginx.ingress.kubernetes.io/proxy-ssl-verify": "on"},
			Policy{Backend: Backend{Protocol: GRPCS, Secret: "shop/ca", Name: "web.example", Verify: On}}, nil},
		"backends of unknown kinds": {map[string]string{"nginx.ingress.kubernetes.io/backend-protocol": "FCGI", "nginx.ingress.kubernetes.io/proxy-ssl-name": "$host"},
			Policy{}, []diag.Reason{ReasonInvalid, ReasonInvalid}},
		"unknown": {map[string]string{"portico.dev/ssl-redirct": "true"}, Policy{}, []diag.Reason{ReasonUnknown}},
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

func TestSecretOfTheNamespace(t *testing.T) {
	for secret, want := range map[string]struct {
		secret  string
		refused bool
	}{"": {}, "ca": {secret: "ca"}, "shop/ca": {secret: "ca"}, "other/ca": {refused: true}} {
		p := Policy{Backend: Backend{Secret: secret}}
		problem, ok := p.Local("shop")
		if p.Backend.Secret != want.secret || (p.Refuse != "") != want.refused || ok == want.refused || (problem.Message != "") != want.refused {
			t.Errorf("%q: %+v, %+v", secret, p, problem)
		}
	}
}

func TestAppProtocols(t *testing.T) {
	for s, want := range map[string]Protocol{
		"": ProtocolDefault, "http": HTTP, "HTTPS": HTTPS, "grpc": GRPC, "grpcs": GRPCS,
		"kubernetes.io/h2c": GRPC, "kubernetes.io/ws": HTTP, "kubernetes.io/wss": HTTPS,
	} {
		if got, ok := ParseAppProtocol(s); got != want || !ok {
			t.Errorf("%q: %s, %t", s, got, ok)
		}
	}
	if _, ok := ParseAppProtocol("postgres"); ok {
		t.Error("postgres is known")
	}
}
