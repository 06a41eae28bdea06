package manifest

import (
	corev1 "k8s.io/api/core/v1"
)

// defaultSecret merges stringData into data, as an apiserver does.
func defaultSecret(s *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
}

func validateSecret(o *object, s *corev1.Secret) {
	if s.Type != corev1.SecretTypeTLS {
		return
	}
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if _, ok := s.Data[key]; !ok {
			o.invalid("data", "has no "+key+", which a Secret of type kubernetes.io/tls must have",
				"add "+key+" under data (base64) or stringData (plain PEM)")
		}
	}
}
