package program

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// KubeconfigUsage is the usage of the flag kubeconfig.
const KubeconfigUsage = "kubeconfig file (default: the pod's service account, else $KUBECONFIG, else ~/.kube/config)"

// Kube is how the apiserver is reached.
type Kube struct {
	Config *rest.Config
	// Namespace is our own: the pod's, or that of the kubeconfig's context.
	Namespace string
}

// LoadKube reads a kubeconfig, or what a pod finds in its place. The agent is
// how the apiserver's log names us.
func LoadKube(path, agent string) (*Kube, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no way to an apiserver: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("namespace of the kubeconfig: %w", err)
	}
	config.QPS = -1 // the apiserver has fair queues; with 5 requests a second, the status of 10,000 Ingresses takes an hour
	config.UserAgent = agent + "/" + Version()
	return &Kube{Config: config, Namespace: namespace}, nil
}
