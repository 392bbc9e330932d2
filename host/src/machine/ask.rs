//! How a machine's users ask its driver, and how long they wait.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::end::{MachineEnd, MachineError};
use super::requests::Request;
use super::{ANSWER_LIMIT, Machine};

impl Machine {
    /// Asks something that has no answer.
    pub(super) async fn request(&self, request: Request) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, request).await
    }

    /// Asks something that the guest answers, which it can't while it is paused.
    pub(super) async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, MachineError> {
        let exchange = self.exchange(&self.requests, request, answer);
        let answered = self.pause.within(ANSWER_LIMIT, exchange).await;
        answered.unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))
    }

    /// Asks something that a guest answers which is detached, or about to be, or not yet attached.
    pub(super) async fn ask_directly<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, MachineError> {
        let exchange = self.exchange(&self.direct, request, answer);
        let answered = self.pause.within(ANSWER_LIMIT, exchange).await;
        answered.unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))
    }

    /// Asks something that the vmm answers, paused or not.
    pub(super) async fn ask_vmm<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, MachineError> {
        let exchange = self.exchange(&self.direct, request, answer);
        let answered = timeout(ANSWER_LIMIT, exchange).await;
        answered.unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))
    }

    pub(super) async fn exchange<T>(
        &self,
        queue: &mpsc::Sender<Request>,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, MachineError> {
        send(queue, &self.ended, request).await?;
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(MachineError::Ended(self.ended().await)),
        }
    }
}

/// Hands a request to the driver.
pub(super) async fn send(
    requests: &mpsc::Sender<Request>,
    ended: &watch::Receiver<Option<Arc<MachineEnd>>>,
    request: Request,
) -> Result<(), MachineError> {
    match requests.send(request).await {
        Ok(()) => Ok(()),
        Err(_) => Err(MachineError::Ended(wait_for_end(&mut ended.clone()).await)),
    }
}

/// The driver tells the end before it goes; if the runtime dropped it, the machine was killed too.
pub(super) async fn wait_for_end(
    ended: &mut watch::Receiver<Option<Arc<MachineEnd>>>,
) -> Arc<MachineEnd> {
    match ended.wait_for(Option::is_some).await.map(|end| (*end).clone()) {
        Ok(Some(end)) => end,
        Ok(None) | Err(_) => Arc::new(MachineEnd::Killed),
    }
}
