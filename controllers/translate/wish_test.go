package translate

import "testing"

func TestCertificateWish(t *testing.T) {
	for name, c := range map[string]struct {
		in   map[string]string
		want Wish
	}{
		"none":             {nil, Wish{}},
		"named":            {map[string]string{IssuerAnnotation: " le "}, Wish{By: IssuerAnnotation, Issuer: "le"}},
		"default":          {map[string]string{IssuerAnnotation: ""}, Wish{By: IssuerAnnotation}},
		"tls-acme":         {map[string]string{TLSACMEAnnotation: "true"}, Wish{By: TLSACMEAnnotation}},
		"not tls-acme":     {map[string]string{TLSACMEAnnotation: "false"}, Wish{}},
		"both":             {map[string]string{TLSACMEAnnotation: "true", IssuerAnnotation: "le"}, Wish{By: IssuerAnnotation, Issuer: "le"}},
		"cert-manager":     {map[string]string{TLSACMEAnnotation: "true", "cert-manager.io/issuer": "x"}, Wish{By: TLSACMEAnnotation, CertManager: "cert-manager.io/issuer"}},
		"its acme":         {map[string]string{IssuerAnnotation: "le", "acme.cert-manager.io/http01-edit-in-place": "true"}, Wish{By: IssuerAnnotation, Issuer: "le", CertManager: "acme.cert-manager.io/http01-edit-in-place"}},
		"somebody else's":  {map[string]string{"notcert-manager.io/x": "y"}, Wish{}},
		"without a domain": {map[string]string{"cert-manager.io": "y"}, Wish{}},
	} {
		if got := CertificateWish(c.in); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
