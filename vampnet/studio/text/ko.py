"""Korean."""

TEXT: dict[str, str] = {
    "page.title": "VampNet 스튜디오",
    "page.subtitle": "루프를 넣으면 변주가 나옵니다. 남길 것을 고르면 나머지는 모델이 새로 연주합니다.",
    "programs.upload": "업로드된 파일이 아닙니다. 먼저 업로드하세요. gradio_client에서는 handle_file(path)을 쓰면 됩니다.",
    "programs.gone": "업로드한 파일이 더는 없습니다. 다시 업로드하세요.",
    "programs.seconds": "seconds는 {low:g}에서 {high:g} 사이여야 합니다. 받은 값: {given}.",
    "programs.bars": "마디는 소리에서 잘라 냅니다. 소리를 주거나 bars를 off로 두세요.",
    "programs.loop": "loop는 true 또는 false여야 합니다. 받은 값: {given}.",
    "programs.format": "format은 {known} 중 하나여야 합니다. 받은 값: {given}.",
    "programs.stopped": "멈췄습니다. 만들어진 것은 없습니다.",
    "programs.failed": "호출이 실패했습니다({error}). 다시 시도하거나 설정을 바꿔 보세요.",
    "programs.unknown": "이 id의 뱀프가 없거나 한 시간이 넘었습니다. 다시 만드세요.",
    "harp.input": "루프",
    "harp.input_info": "뱀프할 소리입니다. 0.1초에서 600초까지.",
    "harp.output": "테이크",
    "harp.output_info": "루프와 길이와 음량이 같습니다. 시드를 바꾸면 다른 테이크가 나옵니다.",
}
