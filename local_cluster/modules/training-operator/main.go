// The PyTorchJob controller of Kubeflow's training operator, as its own main starts it, without its webhooks and
// their certificates. It is here because that main has no flag for the rate of requests, which it leaves at 20 a second.
package main

import (
	"log"
	"os"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	kubeflow "github.com/kubeflow/training-operator/pkg/apis/kubeflow.org/v1"
	"github.com/kubeflow/training-operator/pkg/config"
	controllers "github.com/kubeflow/training-operator/pkg/controller.v1"
	"github.com/kubeflow/training-operator/pkg/controller.v1/common"
	schedulerplugins "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"
	volcano "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// The arguments: the namespace of the lease, the address for metrics, and its flag --controller-threads.
func main() {
	ctrl.SetLogger(zap.New(zap.UseDevMode(true)))
	threads, err := strconv.Atoi(os.Args[3])
	must(err)
	scheme := runtime.NewScheme()
	must(clientgoscheme.AddToScheme(scheme))
	must(kubeflow.AddToScheme(scheme))
	must(volcano.AddToScheme(scheme))
	must(schedulerplugins.AddToScheme(scheme))

	// The defaults of its flags.
	config.Config.PyTorchInitContainerImage = config.PyTorchInitContainerImageDefault
	config.Config.PyTorchInitContainerTemplateFile = config.PyTorchInitContainerTemplateFileDefault
	config.Config.PyTorchInitContainerMaxTries = config.PyTorchInitContainerMaxTriesDefault

	connection := ctrl.GetConfigOrDie()
	connection.QPS, connection.Burst = 1000, 2000
	manager, err := ctrl.NewManager(connection, ctrl.Options{
		Scheme:                  scheme,
		Metrics:                 server.Options{BindAddress: os.Args[2]},
		LeaderElection:          true,
		LeaderElectionNamespace: os.Args[1],
		LeaderElectionID:        "1ca428e5.training-operator.kubeflow.org",
		// Only so that the next one need not wait for the lease to expire.
		LeaderElectionReleaseOnCancel: true,
	})
	must(err)
	setup := controllers.SupportedSchemeReconciler[kubeflow.PyTorchJobKind]
	must(setup(manager, common.GenNonGangSchedulerSetupFunc(), threads))
	must(manager.Start(ctrl.SetupSignalHandler()))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
